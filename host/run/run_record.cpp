// SPDX-License-Identifier: Apache-2.0
#include "host/run/run_record.h"

#include "fettle_kit/io/sha256.h"

#include "host/run/machine.h"
#include "host/store/durable.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>

namespace fettle::host {
namespace {

using Json = nlohmann::ordered_json;

std::string utc_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  return fmt::format("{:%Y%m%dT%H%M%S}.{:03}Z", fmt::gmtime(static_cast<std::time_t>(milliseconds / 1000)),
                     milliseconds % 1000);
}

std::string file_name(std::string name) {
  if (name.empty()) return "pipeline";
  if (name.size() > 100) name.resize(100);
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') c = '-';
  return name;
}

Json number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

const char* name_of(GateAction action) {
  return action == GateAction::stop ? "stop" : action == GateAction::fail ? "fail" : "warn";
}

const char* numerics_of(const Technique& technique) {
  return technique.table->determinism == FETTLE_PORTABLE ? "portable"
         : technique.table->determinism == FETTLE_ISA    ? "isa"
                                                         : "device";
}

Json record_json(const Record& record) {
  Json outputs = Json::object(), metrics = Json::object(), series = Json::object();
  for (const auto& [port, artifact] : record.outputs)
    outputs[port] = {{"kind", artifact.kind}, {"digest", artifact.digest}, {"bytes", artifact.bytes()}};
  for (const auto& [name, metric] : record.metrics) {
    Json& entry = metrics[name] = {{"value", number(metric.value)}};
    if (metric.standard_error) entry["standard_error"] = number(*metric.standard_error);
    if (!metric.unit.empty()) entry["unit"] = metric.unit;
  }
  for (const auto& [name, points] : record.series) {
    Json& list = series[name] = Json::array();
    for (const auto& [x, y] : points.points) list.push_back(Json::array({number(x), number(y)}));
  }
  return {{"key", record.key},
          {"seconds", number(record.seconds)},
          {"peak_memory", record.peak_memory},
          {"outputs", outputs},
          {"metrics", metrics},
          {"series", series},
          {"warnings", record.warnings}};
}

Json feeds_json(const Plan& plan, const PlannedStep& planned) {
  Json feeds = Json::array();
  for (const Feed& feed : planned.feeds)
    if (feed.input)
      feeds.push_back({{"port", feed.port}, {"input", plan.inputs[*feed.input].input->name}});
    else if (feed.step)
      feeds.push_back({{"port", feed.port}, {"step", plan.steps[*feed.step].step->name}, {"output", feed.output}});
  return feeds;
}

Json step_json(const Plan& plan, const PlannedStep& planned, const StepResult& step) {
  Json json = {{"name", planned.step->name},
               {"technique", std::string(planned.technique->id())},
               {"version", planned.technique->table->version ? planned.technique->table->version : ""},
               {"epoch", planned.technique->table->epoch},
               {"numerics", numerics_of(*planned.technique)},
               {"plugin", planned.technique->plugin ? planned.technique->plugin->digest : ""},
               {"state", name_of(step.state)}};
  json["estimated_memory"] = planned.estimate.memory_bytes;
  json["in"] = feeds_json(plan, planned);
  if (!step.error.ok()) json["error"] = step.error.message();
  if (!step.reason.empty()) json["reason"] = step.reason;
  if (step.record) json.update(record_json(*step.record));
  Json gates = Json::array();
  for (const GateResult& gate : step.gates)
    gates.push_back({{"require", gate.text},
                     {"measured", gate.measured},
                     {"passed", gate.passed},
                     {"on_fail", name_of(gate.on_fail)}});
  if (!gates.empty()) json["gates"] = std::move(gates);
  return json;
}

}  // namespace

const char* name_of(StepState state) {
  static constexpr const char* names[] = {"waiting", "running", "done", "cached", "failed", "skipped", "cancelled"};
  return names[static_cast<int>(state)];
}

const char* name_of(OutputResult::State state) {
  static constexpr const char* names[] = {"written", "unchanged", "withheld", "failed"};
  return names[static_cast<int>(state)];
}

Result<std::string> write_run_record(const Plan& plan, const Store& store, const RunResult& result) {
  const Pipeline& pipeline = *plan.pipeline;
  const auto text = read_file(pipeline.file, 64u << 20);
  Json vars = Json::object(), inputs = Json::object(), steps = Json::array(), outputs = Json::array();
  for (const auto& [name, value] : pipeline.vars) vars[name] = value;
  for (const PlannedInput& input : plan.inputs)
    inputs[input.input->name] = {
        {"kind", input.artifact.kind}, {"digest", input.artifact.digest}, {"paths", input.input->paths}};
  for (std::size_t i = 0; i < plan.steps.size(); ++i) steps.push_back(step_json(plan, plan.steps[i], result.steps[i]));
  for (std::size_t i = 0; i < plan.outputs.size(); ++i) {
    const OutputResult& output = result.outputs[i];
    Json& entry = outputs.emplace_back(Json{
        {"name", output.name}, {"path", output.path}, {"state", name_of(output.state)}, {"reason", output.reason}});
    if (const auto& record = result.steps[plan.outputs[i].step].record)
      for (const auto& [port, artifact] : record->outputs)
        if (port == plan.outputs[i].port) entry["bytes"] = artifact.bytes();
  }
  const Machine& machine = this_machine();
  const std::string time = utc_now();
  const Json json = {{"fettle_run", 1},
                     {"pipeline",
                      {{"name", pipeline.name},
                       {"file", pipeline.file},
                       {"digest", text.ok() ? "sha256:" + kit::sha256_hex(*text) : ""}}},
                     {"ended", time},
                     {"seconds", number(result.seconds)},
                     {"interrupted", result.interrupted},
                     {"gate_failed", result.gate_failed},
                     {"fettle", FETTLE_VERSION},
                     {"machine", {{"cpu", machine.cpu}, {"isa", machine.isa}, {"cores", machine.cores}}},
                     {"vars", vars},
                     {"inputs", inputs},
                     {"steps", steps},
                     {"outputs", outputs}};
  const std::string folder = store.root() + "/runs";
  const std::string name = fmt::format("{}-{}", time, file_name(pipeline.name));
  const std::string path = fmt::format("{}/{}.json", folder, name);
  const std::string temporary = fmt::format("{}/.{}.{}", folder, name, ::getpid());
  FETTLE_TRY(replace_file(path, temporary, json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n"));
  // A link of that name changes by rename too, so `latest` always leads somewhere.
  ::unlink(temporary.c_str());
  if (::symlink((name + ".json").c_str(), temporary.c_str()) == 0)
    ::rename(temporary.c_str(), (folder + "/latest").c_str());
  FETTLE_TRY(sync_folder(folder));
  return path;
}

}  // namespace fettle::host
