// SPDX-License-Identifier: Apache-2.0
#include "host/report/metric_tables.h"

#include "fettle_kit/io/message.h"

#include "host/report/quantity.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <string_view>

namespace fettle::host {
namespace {

/// Bytes and whole numbers as people read them, the rest as measured.
std::string metric_text(const RunReport::Metric& metric, bool utf8) {
  const bool whole = metric.value >= 0 && metric.value < 1e15 && metric.value == std::floor(metric.value);
  if (whole && !metric.standard_error)
    return metric.unit == "bytes" ? show_bytes(static_cast<std::uint64_t>(metric.value))
                                  : kit::grouped(static_cast<std::uint64_t>(metric.value));
  return show_measured(metric.value, metric.standard_error, utf8);
}

}  // namespace

std::vector<Table> metric_tables(const RunReport& report, bool utf8) {
  std::vector<std::string_view> techniques;
  for (const RunReport::Step& step : report.steps)
    if (!step.metrics.empty() && std::find(techniques.begin(), techniques.end(), step.technique) == techniques.end())
      techniques.push_back(step.technique);

  std::vector<Table> tables;
  for (const std::string_view technique : techniques) {
    std::set<std::string> names;
    for (const RunReport::Step& step : report.steps)
      if (step.technique == technique)
        for (const RunReport::Metric& metric : step.metrics) names.insert(metric.name);
    std::vector<std::string> columns{std::string(technique)};
    for (const std::string& name : names) columns.push_back(name + ">");
    Table table(columns);
    for (const RunReport::Step& step : report.steps) {
      if (step.technique != technique || step.metrics.empty()) continue;
      std::vector<std::string> cells{step.name};
      for (const std::string& name : names) {
        const auto found = std::find_if(step.metrics.begin(), step.metrics.end(),
                                        [&](const RunReport::Metric& metric) { return metric.name == name; });
        cells.push_back(found == step.metrics.end() ? "" : metric_text(*found, utf8));
      }
      table.add(std::move(cells));
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace fettle::host
