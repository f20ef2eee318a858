// SPDX-License-Identifier: Apache-2.0
#include "host/run/worker.h"

#include "host/run/machine.h"
#include "host/store/durable.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <mutex>

namespace fettle::host {
namespace {

using Json = nlohmann::json;

volatile sig_atomic_t cancel_requested = 0;

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// As text with every bit: JSON has no inf and nan, and a parameter must reach the step as it is.
std::string exact(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%a", value);
  return buffer;
}
double from_exact(const Json& json) { return std::strtod(json.get_ref<const std::string&>().c_str(), nullptr); }

Json value_json(const ParamValue& value) {
  Json items = Json::array();
  for (const ParamValue& item : value.items) items.push_back(value_json(item));
  return {{"type", value.type},
          {"shape", value.shape},
          {"integer", value.integer},
          {"real", exact(value.real)},
          {"text", value.text},
          {"key", value.key},
          {"items", items}};
}

ParamValue read_value(const Json& json) {
  ParamValue value;
  value.type = json.at("type").get<std::uint32_t>();
  value.shape = json.at("shape").get<std::uint32_t>();
  value.integer = json.at("integer").get<std::int64_t>();
  value.real = from_exact(json.at("real"));
  value.text = json.at("text").get<std::string>();
  value.key = json.at("key").get<std::string>();
  for (const Json& item : json.at("items")) value.items.push_back(read_value(item));
  return value;
}

/// Writes events for the process that started this one.
class EventWriter final : public StepListener {
 public:
  explicit EventWriter(int fd) : fd_(fd) {}
  void log(int level, const std::string& text) override { send({{"event", "log"}, {"level", level}, {"text", text}}); }
  void progress(const std::string& phase, std::uint64_t done, std::uint64_t total) override {
    send({{"event", "progress"}, {"phase", phase}, {"done", done}, {"total", total}});
  }
  bool cancelled() override { return cancel_requested != 0; }
  void metric(const std::string& name, const Metric& metric) override {
    Json json = {{"event", "metric"}, {"name", name}, {"value", exact(metric.value)}, {"unit", metric.unit}};
    if (metric.standard_error) json["standard_error"] = exact(*metric.standard_error);
    send(json);
  }
  void point(const std::string& series, double x, double y) override {
    send({{"event", "point"}, {"series", series}, {"x", exact(x)}, {"y", exact(y)}});
  }
  void peak_memory(std::uint64_t bytes) override { send({{"event", "peak_memory"}, {"bytes", bytes}}); }
  void ended(const Status& status) {
    send({{"event", "ended"},
          {"code", static_cast<int>(status.code())},
          {"message", status.message()},
          {"where", status.where()}});
  }

 private:
  void send(const Json& json) {
    const std::string line = text_of(json) + "\n";
    const std::lock_guard lock(mutex_);
    for (std::size_t sent = 0; sent < line.size();) {
      const ssize_t n = ::write(fd_, line.data() + sent, line.size() - sent);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return;  // the other side is gone, and this process with it soon
      sent += static_cast<std::size_t>(n);
    }
  }
  const int fd_;
  std::mutex mutex_;
};

Status run_request(const std::string& path, const TechniqueFinder& find, StepListener& listener) {
  FETTLE_ASSIGN(const std::string text, read_file(path, 64u << 20));
  StepJob job;
  std::vector<ParamValue> values;
  std::string plugin, digest, id;
  try {
    const Json json = Json::parse(text);
    plugin = json.at("plugin").get<std::string>();
    digest = json.at("plugin_digest").get<std::string>();
    id = json.at("technique").get<std::string>();
    for (const Json& value : json.at("params")) values.push_back(read_value(value));
    for (const Json& input : json.at("inputs")) {
      StepJob::Input& in = job.inputs.emplace_back();
      in.port = input.at("port").get<std::string>();
      in.kind = input.at("kind").get<std::string>();
      in.path = input.at("path").get<std::string>();
      in.digest = input.at("digest").get<std::string>();
      in.attributes = input.at("attributes").get<Attributes>();
    }
    job.outputs = json.at("outputs").get<std::vector<std::pair<std::string, std::string>>>();
    job.seed = json.at("seed").get<std::uint64_t>();
    job.memory_budget = json.at("memory_budget").get<std::uint64_t>();
    job.threads = std::max(1u, json.at("threads").get<unsigned>());
    job.scratch = json.at("scratch").get<std::string>();
    job.checkpoint = json.at("checkpoint").get<std::string>();
  } catch (const std::exception& e) {
    return {Code::corrupt_data, path + ": not a request: " + e.what()};
  }
  FETTLE_ASSIGN(job.technique, find(plugin, digest, id));
  if (values.size() != job.technique->table->param_count)
    return {Code::corrupt_data, path + ": wrong number of parameters"};
  const ParamSet params(std::move(values));
  job.params = &params;
  const tbb::global_control workers(tbb::global_control::max_allowed_parallelism, job.threads);
  tbb::task_arena arena(static_cast<int>(job.threads));
  return arena.execute([&] { return in_process_executor()->run(job, listener); });
}

}  // namespace

std::string write_request(const StepJob& job) {
  Json params = Json::array(), inputs = Json::array();
  for (const ParamValue& value : job.params->values()) params.push_back(value_json(value));
  for (const StepJob::Input& in : job.inputs)
    inputs.push_back({{"port", in.port},
                      {"kind", in.kind},
                      {"path", in.path},
                      {"digest", in.digest},
                      {"attributes", in.attributes}});
  const Plugin* plugin = job.technique->plugin;
  return text_of({{"plugin", plugin ? plugin->path : ""},
                  {"plugin_digest", plugin ? plugin->digest : ""},
                  {"technique", job.technique->table->id},
                  {"params", params},
                  {"inputs", inputs},
                  {"outputs", job.outputs},
                  {"seed", job.seed},
                  {"memory_budget", job.memory_budget},
                  {"threads", job.threads},
                  {"scratch", job.scratch},
                  {"checkpoint", job.checkpoint}});
}

Result<const Technique*> load_technique(const std::string& path, const std::string& digest, const std::string& id) {
  static Registry registry;  // its plugins are never unloaded, and the technique points into it
  registry = Registry::discover({{std::filesystem::path(path).parent_path().string()}, ""});
  const Technique* technique = registry.find(id);
  if (!technique || technique->plugin->path != path)
    return Status(Code::not_found, "plugin '" + path + "' does not offer '" + id + "' any more");
  if (technique->plugin->digest != digest)
    return Status(Code::io, "plugin '" + path + "' changed while the pipeline ran; run again");
  return technique;
}

int worker_main(const std::string& request, const std::string& events, const TechniqueFinder& find) {
  int fd = -1;
  const auto parsed = std::from_chars(events.data(), events.data() + events.size(), fd);
  if (parsed.ec != std::errc() || parsed.ptr != events.data() + events.size() || ::fcntl(fd, F_GETFD) < 0) {
    std::fputs("fettle worker: started by fettle itself for a step of its own, not by hand\n", stderr);
    return 2;
  }
  struct sigaction on_term {};
  on_term.sa_handler = [](int) { cancel_requested = 1; };
  ::sigaction(SIGTERM, &on_term, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  EventWriter writer(fd);
  const Status status = run_request(request, find, writer);
  writer.ended(status);
  return 0;
}

}  // namespace fettle::host
