// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fettle::host {

/// Text that stands between tags or in an attribute.
std::string html_escaped(std::string_view text);

struct ChartLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< points that are not finite are left out
};
/// Curves over a common axis, as an SVG element that takes its colours from the page: classes axis, grid, c0 to c7.
std::string line_chart(const std::vector<ChartLine>& lines);

struct ChartPoint {
  std::string name;
  double x = 0, y = 0, y_error = 0;
};
/// Labelled points; those that no other point beats on both axes (smaller is better) are joined.
std::string pareto_chart(const std::vector<ChartPoint>& points, std::string_view x_name, std::string_view y_name);

}  // namespace fettle::host
