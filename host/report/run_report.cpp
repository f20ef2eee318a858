// SPDX-License-Identifier: Apache-2.0
#include "host/report/run_report.h"

#include "fettle_kit/io/json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>

namespace fettle::host {
namespace {

using kit::Json;

// What is missing or of another type reads as nothing: an older record has fewer members.

const Json& member(const Json& json, const char* name) {
  static const Json none;
  const auto found = json.is_object() ? json.find(name) : json.end();
  return found == json.end() ? none : *found;
}

std::string text(const Json& json, const char* name) {
  const Json& value = member(json, name);
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
}

double number(const Json& value) {
  if (value.is_number()) return value.get<double>();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  if (value == "-inf") return -std::numeric_limits<double>::infinity();
  return std::numeric_limits<double>::quiet_NaN();
}

std::uint64_t bytes(const Json& json, const char* name) {
  const Json& value = member(json, name);
  return value.is_number_unsigned() ? value.get<std::uint64_t>() : 0;
}

RunReport::Step read_step(const Json& json) {
  RunReport::Step step;
  step.name = text(json, "name"), step.technique = text(json, "technique"), step.state = text(json, "state");
  step.error = text(json, "error"), step.reason = text(json, "reason");
  if (const Json& seconds = member(json, "seconds"); !seconds.is_null()) step.seconds = number(seconds);
  step.peak_memory = bytes(json, "peak_memory"), step.estimated_memory = bytes(json, "estimated_memory");
  for (const auto& [port, artifact] : member(json, "outputs").items())
    step.outputs.push_back({port, text(artifact, "kind"), text(artifact, "digest"), bytes(artifact, "bytes")});
  for (const auto& [name, metric] : member(json, "metrics").items()) {
    RunReport::Metric m{name, text(metric, "unit"), number(member(metric, "value")), std::nullopt};
    if (const Json& error = member(metric, "standard_error"); !error.is_null()) m.standard_error = number(error);
    step.metrics.push_back(std::move(m));
  }
  for (const auto& [name, points] : member(json, "series").items()) {
    RunReport::Series series{name, {}};
    for (const Json& point : points)
      if (point.is_array() && point.size() == 2) series.points.emplace_back(number(point[0]), number(point[1]));
    step.series.push_back(std::move(series));
  }
  for (const Json& warning : member(json, "warnings"))
    if (warning.is_string()) step.warnings.push_back(warning.get<std::string>());
  for (const Json& gate : member(json, "gates"))
    step.gates.push_back({text(gate, "require"), text(gate, "measured"), member(gate, "passed") == true});
  return step;
}

}  // namespace

Result<RunReport> read_run_report(const std::string& path) {
  FETTLE_ASSIGN(const Json json, kit::read_json_file(path, {.max_bytes = 512u << 20}));
  if (member(json, "fettle_run") != 1)
    return Status{Code::corrupt_data,
                  fmt::format("{}: no record of a run that this version reads: found fettle_run {}, expected 1; give a "
                              "file of STORE/runs",
                              path, member(json, "fettle_run").dump())};
  RunReport report;
  report.path = path;
  const Json& pipeline = member(json, "pipeline");
  report.pipeline = text(pipeline, "name"), report.file = text(pipeline, "file");
  report.digest = text(pipeline, "digest");
  report.ended = text(json, "ended"), report.version = text(json, "fettle");
  report.cpu = text(member(json, "machine"), "cpu"), report.isa = text(member(json, "machine"), "isa");
  report.seconds = number(member(json, "seconds"));
  report.interrupted = member(json, "interrupted") == true;
  for (const auto& [name, value] : member(json, "vars").items())
    report.vars.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
  for (const auto& [name, input] : member(json, "inputs").items())
    report.inputs.push_back({name, text(input, "kind"), text(input, "digest")});
  for (const Json& step : member(json, "steps")) report.steps.push_back(read_step(step));
  for (const Json& output : member(json, "outputs"))
    report.outputs.push_back({text(output, "name"), text(output, "path"), text(output, "state"), text(output, "reason"),
                              bytes(output, "bytes")});
  return report;
}

}  // namespace fettle::host
