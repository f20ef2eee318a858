// SPDX-License-Identifier: Apache-2.0
#include "host/report/curves.h"
#include "host/report/metric_tables.h"
#include "host/report/quantity.h"
#include "host/report/run_report.h"
#include "host/report/table.h"

#include <fmt/format.h>

#include <filesystem>

namespace fettle::host {
namespace {

/// As short as the user would write it from here.
std::string path_text(const std::string& path) {
  std::error_code failed;
  const std::filesystem::path here = std::filesystem::proximate(path, failed);
  return failed || here.empty() || *here.begin() == ".." ? path : here.string();
}

Table steps_table(const RunReport& report) {
  Table table({"step", "technique", "state", "time>"});
  for (const RunReport::Step& step : report.steps) {
    const std::string time = step.seconds ? show_seconds(*step.seconds) : "-";
    table.add({step.name, step.technique, step.state, step.state == "cached" ? "(" + time + ")" : time});
  }
  return table;
}

Table outputs_table(const RunReport& report) {
  Table table({"output", "state", "size>", "path"});
  for (const RunReport::Output& o : report.outputs) {
    const bool there = o.state == "written" || o.state == "unchanged";
    table.add({o.name, o.state, there ? show_bytes(o.bytes) : "-",
               o.reason.empty() ? path_text(o.path) : fmt::format("{} ({})", path_text(o.path), o.reason)});
  }
  return table;
}

}  // namespace

std::string run_report_text(const RunReport& report, bool utf8) {
  std::string text = steps_table(report).text();
  for (const Table& metrics : metric_tables(report, utf8)) text += "\n" + metrics.text();
  for (const Table& losses : loss_tables(report, utf8)) text += "\n" + losses.text();
  std::string gates;
  for (const RunReport::Step& step : report.steps)
    for (const RunReport::Gate& g : step.gates)
      gates +=
          fmt::format("gate of {}: {}: {} ({})\n", step.name, g.passed ? "passed" : "not met", g.require, g.measured);
  if (!gates.empty()) text += "\n" + gates;
  if (const Table outputs = outputs_table(report); !outputs.empty()) text += "\n" + outputs.text();
  return text +
         fmt::format("\n{} in all\nrecord of this run: {}\n", show_seconds(report.seconds), path_text(report.path));
}

std::string run_report_markdown(const RunReport& report) {
  std::string text;
  for (const Table& metrics : metric_tables(report, true)) text += (text.empty() ? "" : "\n") + metrics.markdown();
  for (const Table& losses : loss_tables(report, true)) text += (text.empty() ? "" : "\n") + losses.markdown();
  Table gates({"step", "gate", "measured", "verdict"});
  for (const RunReport::Step& step : report.steps)
    for (const RunReport::Gate& g : step.gates)
      gates.add({step.name, "`" + g.require + "`", g.measured, g.passed ? "passed" : "not met"});
  if (!gates.empty()) text += (text.empty() ? "" : "\n") + gates.markdown();
  return text;
}

}  // namespace fettle::host
