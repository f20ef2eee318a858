// SPDX-License-Identifier: Apache-2.0
#include "host/cli/run_summary.h"

#include "host/report/quantity.h"
#include "host/run/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

/// Bytes of a file, or of all files below a folder.
std::uint64_t bytes_of(const std::string& path) {
  std::error_code failed;
  if (fs::is_regular_file(path, failed)) return fs::file_size(path, failed);
  std::uint64_t sum = 0;
  for (fs::recursive_directory_iterator i(path, failed), end; !failed && i != end; i.increment(failed))
    if (i->is_regular_file(failed)) sum += i->file_size(failed);
  return sum;
}

std::string time_text(const StepResult& step) {
  if (!step.record) return "-";
  const std::string time = show_seconds(step.record->seconds);
  return step.state == StepState::cached ? "(" + time + ")" : time;  // what it took when it ran
}

}  // namespace

Table steps_table(const Plan& plan, const RunResult& result) {
  Table table({"step", "technique", "state", "time>"});
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    table.add({plan.steps[i].step->name, std::string(plan.steps[i].technique->id()), name_of(result.steps[i].state),
               time_text(result.steps[i])});
  return table;
}

Table metrics_table(const Plan& plan, const RunResult& result, bool utf8) {
  std::vector<std::pair<std::string, std::string>> names;  // metric and its unit, in order of appearance
  for (const StepResult& step : result.steps)
    if (step.record)
      for (const auto& [name, metric] : step.record->metrics)
        if (std::none_of(names.begin(), names.end(), [&](const auto& n) { return n.first == name; }))
          names.emplace_back(name, metric.unit);
  std::vector<std::string> columns{"step"};
  for (const auto& [name, unit] : names)
    columns.push_back(unit.empty() ? name + ">" : fmt::format("{} [{}]>", name, unit));
  Table table(columns);
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const auto& record = result.steps[i].record;
    if (!record || record->metrics.empty()) continue;
    std::vector<std::string> cells{plan.steps[i].step->name};
    for (const auto& [name, unit] : names) {
      const auto found = record->metrics.find(name);
      cells.push_back(
          found == record->metrics.end() ? "" : show_measured(found->second.value, found->second.standard_error, utf8));
    }
    table.add(std::move(cells));
  }
  return table;
}

Table outputs_table(const RunResult& result) {
  Table table({"output", "state", "size>", "path"});
  for (const OutputResult& o : result.outputs) {
    const bool there = o.state == OutputResult::State::written || o.state == OutputResult::State::unchanged;
    table.add({o.name, name_of(o.state), there ? show_bytes(bytes_of(o.path)) : "-",
               o.reason.empty() ? o.path : fmt::format("{} ({})", o.path, o.reason)});
  }
  return table;
}

std::string run_summary(const Plan& plan, const RunResult& result, bool utf8) {
  std::string text = steps_table(plan, result).text();
  if (const Table metrics = metrics_table(plan, result, utf8); !metrics.empty()) text += "\n" + metrics.text();
  std::string gates;
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    for (const GateResult& g : result.steps[i].gates)
      gates += fmt::format("gate of {}: {}: {} ({})\n", plan.steps[i].step->name, g.passed ? "passed" : "not met",
                           g.text, g.measured);
  if (!gates.empty()) text += "\n" + gates;
  if (const Table outputs = outputs_table(result); !outputs.empty()) text += "\n" + outputs.text();
  text += fmt::format("\n{} in all\n", show_seconds(result.seconds));
  if (!result.run_record.empty()) text += fmt::format("record of this run: {}\n", result.run_record);
  return text;
}

}  // namespace fettle::host
