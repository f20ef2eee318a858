// SPDX-License-Identifier: Apache-2.0
#include "host/cli/run_summary.h"

#include "fettle_kit/io/message.h"

#include "host/report/quantity.h"
#include "host/run/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <utility>

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

/// Bytes and whole numbers as people read them, the rest as measured.
std::string metric_text(const Metric& metric, bool utf8) {
  const bool whole = metric.value >= 0 && metric.value < 1e15 && metric.value == std::floor(metric.value);
  if (whole && !metric.standard_error)
    return metric.unit == "bytes" ? show_bytes(static_cast<std::uint64_t>(metric.value))
                                  : kit::grouped(static_cast<std::uint64_t>(metric.value));
  return show_measured(metric.value, metric.standard_error, utf8);
}

/// As short as the user would write it from here.
std::string path_text(const std::string& path) {
  std::error_code failed;
  const fs::path here = fs::proximate(path, failed);
  return failed || here.empty() || *here.begin() == ".." ? path : here.string();
}

}  // namespace

Table steps_table(const Plan& plan, const RunResult& result) {
  Table table({"step", "technique", "state", "time>"});
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    table.add({plan.steps[i].step->name, std::string(plan.steps[i].technique->id()), name_of(result.steps[i].state),
               time_text(result.steps[i])});
  return table;
}

std::vector<Table> metrics_tables(const Plan& plan, const RunResult& result, bool utf8) {
  std::vector<std::string_view> techniques;  // those that reported something, in the order of the plan
  const auto reports = [&](std::size_t i) {
    return result.steps[i].record && !result.steps[i].record->metrics.empty();
  };
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    if (const auto id = plan.steps[i].technique->id();
        reports(i) && std::find(techniques.begin(), techniques.end(), id) == techniques.end())
      techniques.push_back(id);

  std::vector<Table> tables;
  for (const std::string_view technique : techniques) {
    std::vector<std::size_t> steps;
    std::set<std::string> names;
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
      if (!reports(i) || plan.steps[i].technique->id() != technique) continue;
      steps.push_back(i);
      for (const auto& [name, metric] : result.steps[i].record->metrics) names.insert(name);
    }
    std::vector<std::string> columns{std::string(technique)};
    for (const std::string& name : names) columns.push_back(name + ">");
    Table table(columns);
    for (const std::size_t i : steps) {
      const auto& metrics = result.steps[i].record->metrics;
      std::vector<std::string> cells{plan.steps[i].step->name};
      for (const std::string& name : names) {
        const auto found = metrics.find(name);
        cells.push_back(found == metrics.end() ? "" : metric_text(found->second, utf8));
      }
      table.add(std::move(cells));
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

Table outputs_table(const RunResult& result) {
  Table table({"output", "state", "size>", "path"});
  for (const OutputResult& o : result.outputs) {
    const bool there = o.state == OutputResult::State::written || o.state == OutputResult::State::unchanged;
    table.add({o.name, name_of(o.state), there ? show_bytes(bytes_of(o.path)) : "-",
               o.reason.empty() ? path_text(o.path) : fmt::format("{} ({})", path_text(o.path), o.reason)});
  }
  return table;
}

std::string run_summary(const Plan& plan, const RunResult& result, bool utf8) {
  std::string text = steps_table(plan, result).text();
  for (const Table& metrics : metrics_tables(plan, result, utf8)) text += "\n" + metrics.text();
  std::string gates;
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    for (const GateResult& g : result.steps[i].gates)
      gates += fmt::format("gate of {}: {}: {} ({})\n", plan.steps[i].step->name, g.passed ? "passed" : "not met",
                           g.text, g.measured);
  if (!gates.empty()) text += "\n" + gates;
  if (const Table outputs = outputs_table(result); !outputs.empty()) text += "\n" + outputs.text();
  text += fmt::format("\n{} in all\n", show_seconds(result.seconds));
  if (!result.run_record.empty()) text += fmt::format("record of this run: {}\n", path_text(result.run_record));
  return text;
}

}  // namespace fettle::host
