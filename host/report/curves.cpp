// SPDX-License-Identifier: Apache-2.0
#include "host/report/curves.h"

#include "host/report/quantity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

namespace fettle::host {
namespace {

constexpr std::string_view kHeldOut = "held_out_";

bool has(const RunReport& report, const std::string& technique, std::string_view series) {
  return std::any_of(report.steps.begin(), report.steps.end(), [&](const RunReport::Step& step) {
    return step.technique == technique &&
           std::any_of(step.series.begin(), step.series.end(), [&](const auto& other) { return other.name == series; });
  });
}

/// Means over equal parts of the x axis, eight heights from the least to the largest of them.
std::string blocks(const std::vector<std::pair<double, double>>& points) {
  constexpr std::array<std::string_view, 8> heights = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  constexpr std::size_t parts = 32;
  std::array<double, parts> sums{}, counts{};
  const double left = points.front().first, width = points.back().first - left;
  for (const auto& [x, y] : points) {
    const double part = width > 0 ? (x - left) / width * parts : 0;
    const auto at = static_cast<std::size_t>(std::clamp(part, 0.0, parts - 1.0));
    sums[at] += y, ++counts[at];
  }
  double low = INFINITY, high = -INFINITY;
  for (std::size_t i = 0; i < parts; ++i)
    if (counts[i] > 0) low = std::min(low, sums[i] / counts[i]), high = std::max(high, sums[i] / counts[i]);
  std::string text;
  for (std::size_t i = 0; i < parts; ++i) {
    if (counts[i] == 0) continue;
    const double share = high > low ? (sums[i] / counts[i] - low) / (high - low) : 0;
    text += heights[static_cast<std::size_t>(std::lround(share * (heights.size() - 1)))];
  }
  return text;
}

}  // namespace

std::vector<Curves> curves_of(const RunReport& report) {
  std::vector<Curves> all;
  for (const RunReport::Step& step : report.steps)
    for (const RunReport::Series& series : step.series) {
      std::string name = series.name, line = step.name;
      if (name.starts_with(kHeldOut) && has(report, step.technique, name.substr(kHeldOut.size())))
        name.erase(0, kHeldOut.size()), line += ", held out";
      auto chart = std::find_if(all.begin(), all.end(),
                                [&](const Curves& c) { return c.technique == step.technique && c.name == name; });
      if (chart == all.end()) chart = all.insert(all.end(), Curves{step.technique, name, {}});
      chart->lines.push_back({line, series.points});
    }
  for (Curves& chart : all)  // what is learned before what is held out
    std::stable_sort(chart.lines.begin(), chart.lines.end(), [](const ChartLine& a, const ChartLine& b) {
      return !a.name.ends_with(", held out") && b.name.ends_with(", held out");
    });
  std::stable_partition(all.begin(), all.end(), [](const Curves& c) { return c.of_losses(); });
  return all;
}

std::vector<Table> loss_tables(const RunReport& report, bool utf8) {
  std::vector<Table> tables;
  for (const Curves& chart : curves_of(report)) {
    if (!chart.of_losses()) continue;
    std::vector<std::string> columns{fmt::format("{} of {}", chart.name, chart.technique), "first>", "least>", "last>"};
    if (utf8) columns.emplace_back("curve");
    Table table(columns);
    for (const ChartLine& line : chart.lines) {
      std::vector<std::pair<double, double>> points;
      for (const auto& point : line.points)
        if (std::isfinite(point.first) && std::isfinite(point.second)) points.push_back(point);
      if (points.empty()) continue;
      const double least = std::min_element(points.begin(), points.end(), [](const auto& a, const auto& b) {
                             return a.second < b.second;
                           })->second;
      table.add({line.name, show_number(points.front().second), show_number(least), show_number(points.back().second),
                 utf8 ? blocks(points) : ""});
    }
    if (!table.empty()) tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace fettle::host
