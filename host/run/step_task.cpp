// SPDX-License-Identifier: Apache-2.0
#include "host/run/step_task.h"

#include "host/plan/attributes.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <new>
#include <string_view>

namespace fettle::host {
namespace {

// Far above what a technique has reason to report; a plugin in a loop must not fill memory and the record.
constexpr std::size_t kMaxWarnings = 1000;
constexpr std::size_t kMaxMetrics = 10'000;
constexpr std::size_t kMaxPoints = 1'000'000;

/// Collects what a step reports for its record and passes the rest on.
class Reporter final : public StepListener {
 public:
  Reporter(const std::function<void(RunEvent)>& say, const std::function<bool()>& cancelled)
      : say_(say), cancelled_(cancelled) {}

  void log(int level, const std::string& text) override {
    RunEvent event;
    event.kind = RunEvent::Kind::log;
    event.level = level;
    event.text = text;
    say_(std::move(event));
    if (level < FETTLE_LOG_WARNING) return;
    const std::lock_guard lock(mutex_);
    if (record_.warnings.size() < kMaxWarnings) record_.warnings.push_back(text);
  }
  void progress(const std::string& phase, std::uint64_t done, std::uint64_t total) override {
    RunEvent event;
    event.kind = RunEvent::Kind::progress;
    event.phase = phase;
    event.done = done;
    event.total = total;
    say_(std::move(event));
  }
  bool cancelled() override { return cancelled_(); }
  void metric(const std::string& name, const Metric& metric) override {
    const std::lock_guard lock(mutex_);
    if (record_.metrics.size() < kMaxMetrics || record_.metrics.contains(name)) record_.metrics[name] = metric;
  }
  void point(const std::string& series, double x, double y) override {
    const std::lock_guard lock(mutex_);
    if (points_ < kMaxPoints) record_.series[series].points.emplace_back(x, y), ++points_;
  }
  void peak_memory(std::uint64_t bytes) override {
    const std::lock_guard lock(mutex_);
    record_.peak_memory = bytes;
  }
  Record take() {
    const std::lock_guard lock(mutex_);
    return std::move(record_);
  }

 private:
  const std::function<void(RunEvent)>& say_;
  const std::function<bool()>& cancelled_;
  std::mutex mutex_;
  Record record_;
  std::size_t points_ = 0;
};

/// What was foretold, and over it what the files say.
Result<Attributes> attributes_of(const PlannedStep& planned, const fettle_port& port, const std::string& folder) {
  std::map<std::string, std::string> merged;
  for (const auto& [name, foretold] : planned.output_attributes)
    if (name == port.name) merged.insert(foretold.begin(), foretold.end());
  FETTLE_ASSIGN(const Attributes computed, artifact_attributes(port.kind, folder));
  for (const auto& [key, value] : computed) merged[key] = value;
  return Attributes(merged.begin(), merged.end());
}

/// A technique knows its inputs by paths inside the store, which tell a user nothing: name the ports instead.
std::string with_ports(std::string text, const StepJob& job) {
  for (const auto& input : job.inputs) {
    if (input.path.empty()) continue;
    const std::string name = "input '" + input.port + "'";
    for (std::size_t at = 0; (at = text.find(input.path, at)) != std::string::npos;) {
      const std::size_t end = at + input.path.size();
      if (end < text.size() && std::string_view("/:;,' ").find(text[end]) == std::string_view::npos) {
        at = end;  // another path that begins like this one
        continue;
      }
      const bool inside = end < text.size() && text[end] == '/';
      text.replace(at, input.path.size() + (inside ? 1 : 0), inside ? name + ": " : name);
      at += name.size();
    }
  }
  return text;
}

Result<Record> execute(const StepTask& task, const Store& store, Store::Transaction& transaction, Executor& executor,
                       Reporter& reporter) {
  const PlannedStep& planned = *task.planned;
  const fettle_technique& technique = *planned.technique->table;
  StepJob job;
  job.technique = planned.technique;
  job.params = &planned.params;
  for (std::size_t i = 0; i < task.inputs.size(); ++i) {
    const Artifact& artifact = task.inputs[i];
    FETTLE_ASSIGN(std::string path, store.path_of(artifact));
    job.inputs.push_back({planned.feeds[i].port, artifact.kind, std::move(path), artifact.digest, artifact.attributes});
  }
  for (std::uint32_t i = 0; i < technique.output_count; ++i)
    job.outputs.emplace_back(technique.outputs[i].name, transaction.staging(technique.outputs[i].name));
  job.seed = planned.step->seed;
  job.memory_budget = task.memory_budget;
  job.threads = task.threads;
  job.scratch = transaction.scratch();
  job.checkpoint = transaction.checkpoint();

  const auto begin = std::chrono::steady_clock::now();
  if (Status status = executor.run(job, reporter); !status) {
    // A plugin rarely knows why its disk refused; the store does.
    if (status.code() == Code::io)
      if (const Status space = store.check_space(std::uint64_t{1} << 20); !space)
        return Status(Code::io, status.message() + "; " + space.message(), status.where());
    return Status(status.code(), with_ports(status.message(), job), with_ports(status.where(), job));
  }

  Record record = reporter.take();
  record.technique = technique.id;
  record.key_text = task.key.text;
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::vector<std::pair<std::string, std::string>> ports;
  for (std::uint32_t i = 0; i < technique.output_count; ++i) {
    const fettle_port& port = technique.outputs[i];
    std::error_code error;
    if (std::filesystem::is_empty(job.outputs[i].second, error)) {
      if (port.flags & FETTLE_PORT_OPTIONAL) continue;
      return Status(Code::internal, std::string("output '") + port.name + "': nothing was written to it");
    }
    auto attributes = attributes_of(planned, port, job.outputs[i].second);
    if (!attributes.ok()) return std::move(attributes).error().with_context(std::string("output '") + port.name + "'");
    record.outputs.emplace_back(port.name, Artifact{port.kind, {}, {}, *std::move(attributes)});
    ports.emplace_back(port.name, port.kind);
  }
  return transaction.commit(std::move(record), ports);
}

StepOutcome failed(Status error) {
  const bool cancelled = error.code() == Code::cancelled;
  return {cancelled ? StepState::cancelled : StepState::failed, std::nullopt, std::move(error)};
}

}  // namespace

StepOutcome run_step(const StepTask& task, const Store& store, Executor& executor,
                     const std::function<void(RunEvent)>& say, const std::function<bool()>& cancelled) {
  try {
    const fettle_technique& technique = *task.planned->technique->table;
    std::vector<std::string> ports;
    for (std::uint32_t i = 0; i < technique.output_count; ++i) ports.emplace_back(technique.outputs[i].name);
    auto begun = store.begin(task.key.key, ports, cancelled);
    if (!begun.ok()) return failed(std::move(begun).error());
    if (auto* record = std::get_if<Record>(&*begun)) return {StepState::cached, std::move(*record), {}};
    Reporter reporter(say, cancelled);
    auto record = execute(task, store, std::get<Store::Transaction>(*begun), executor, reporter);
    if (!record.ok()) return failed(std::move(record).error());
    return {StepState::done, *std::move(record), {}};
  } catch (const std::bad_alloc&) {
    return failed({Code::out_of_memory, "out of memory"});
  } catch (const std::exception& e) {
    return failed({Code::internal, std::string("unexpected exception: ") + e.what()});
  }
}

}  // namespace fettle::host
