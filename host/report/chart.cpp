// SPDX-License-Identifier: Apache-2.0
#include "host/report/chart.h"

#include "host/report/quantity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fettle::host {
namespace {

constexpr double kWidth = 720, kHeight = 300, kLeft = 70, kRight = 16, kTop = 12, kBottom = 40;
constexpr std::size_t kColours = 8;
constexpr std::size_t kMaxDrawn = 2000;  ///< points a curve: more are not visible and make the page heavy

struct Axis {
  double low = 0, high = 1, step = 0.2;

  /// Round ticks around what there is to show.
  static Axis around(double low, double high) {
    if (!(low < high)) {
      const double margin = low == 0 ? 1 : std::abs(low) * 0.1;
      low -= margin, high += margin;
    }
    const double rough = (high - low) / 5, magnitude = std::pow(10, std::floor(std::log10(rough)));
    const double unit = rough / magnitude;
    const double step = magnitude * (unit <= 1 ? 1 : unit <= 2 ? 2 : unit <= 5 ? 5 : 10);
    return {std::floor(low / step) * step, std::ceil(high / step) * step, step};
  }
  int ticks() const { return static_cast<int>(std::lround((high - low) / step)) + 1; }
  double tick(int i) const { return low + i * step; }
  double share(double value) const { return (value - low) / (high - low); }
};

struct Frame {
  Axis x, y;
  double at_x(double value) const { return kLeft + x.share(value) * (kWidth - kLeft - kRight); }
  double at_y(double value) const { return kHeight - kBottom - y.share(value) * (kHeight - kTop - kBottom); }
};

std::string tick_text(double value, double step) {
  if (std::abs(value) < step * 1e-6) return "0";  // 0 that came out as 1e-17
  return show_number(value);
}

std::string opened(const Frame& frame, std::string_view x_name, std::string_view y_name, std::string_view what) {
  std::string svg = fmt::format(R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{}">)"
                                "\n",
                                kWidth, kHeight, html_escaped(what));
  for (int i = 0; i < frame.y.ticks(); ++i) {
    const double y = frame.at_y(frame.y.tick(i));
    svg += fmt::format(R"(<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/><text class="axis" x="{:.1f}" y="{:.1f}" )"
                       R"(text-anchor="end">{}</text>)"
                       "\n",
                       kLeft, y, kWidth - kRight, kLeft - 6, y + 4, tick_text(frame.y.tick(i), frame.y.step));
  }
  for (int i = 0; i < frame.x.ticks(); ++i)
    svg += fmt::format(R"(<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)"
                       "\n",
                       frame.at_x(frame.x.tick(i)), kHeight - kBottom + 16, tick_text(frame.x.tick(i), frame.x.step));
  if (!x_name.empty())
    svg += fmt::format(R"(<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)"
                       "\n",
                       kWidth - kRight, kHeight - 6, html_escaped(x_name));
  if (!y_name.empty())
    svg += fmt::format(R"(<text class="axis" x="{:.1f}" y="{:.1f}">{}</text>)"
                       "\n",
                       kLeft + 6, kTop + 10, html_escaped(y_name));
  return svg;
}

}  // namespace

std::string html_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  return out;
}

std::string line_chart(const std::vector<ChartLine>& lines) {
  std::vector<ChartLine> drawn;
  double left = INFINITY, right = -INFINITY, low = INFINITY, high = -INFINITY;
  for (const ChartLine& line : lines) {
    ChartLine kept{line.name, {}};
    const std::size_t stride = std::max<std::size_t>(1, (line.points.size() + kMaxDrawn - 1) / kMaxDrawn);
    for (std::size_t i = 0; i < line.points.size(); ++i) {
      const auto [x, y] = line.points[i];
      if (!std::isfinite(x) || !std::isfinite(y) || (i % stride != 0 && i + 1 != line.points.size())) continue;
      left = std::min(left, x), right = std::max(right, x), low = std::min(low, y), high = std::max(high, y);
      kept.points.emplace_back(x, y);
    }
    if (!kept.points.empty()) drawn.push_back(std::move(kept));
  }
  if (drawn.empty()) return "<p>no finite points</p>\n";
  Frame frame{Axis::around(left, right), Axis::around(low, high)};
  if (left < right) frame.x.low = left, frame.x.high = right;  // a curve uses the whole width
  frame.x.low = std::floor(frame.x.low / frame.x.step) * frame.x.step;
  frame.x.high = std::ceil(frame.x.high / frame.x.step) * frame.x.step;
  std::string svg = opened(frame, "", "", "curves");
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    std::string path;
    for (const auto& [x, y] : drawn[i].points)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", frame.at_x(x), frame.at_y(y));
    if (drawn[i].points.size() == 1) path += "h0.1";
    svg += fmt::format(R"(<path class="line c{}" d="{}"><title>{}</title></path>)"
                       "\n",
                       i % kColours, path, html_escaped(drawn[i].name));
  }
  svg += "</svg>\n<p class=\"legend\">";
  for (std::size_t i = 0; i < drawn.size(); ++i)
    svg += fmt::format(R"(<span><i class="c{}"></i>{}</span> )", i % kColours, html_escaped(drawn[i].name));
  return svg + "</p>\n";
}

std::string pareto_chart(const std::vector<ChartPoint>& points, std::string_view x_name, std::string_view y_name) {
  double left = INFINITY, right = -INFINITY, low = INFINITY, high = -INFINITY;
  std::vector<ChartPoint> drawn;
  for (const ChartPoint& p : points) {
    if (!std::isfinite(p.x) || !std::isfinite(p.y)) continue;
    left = std::min(left, p.x), right = std::max(right, p.x), low = std::min(low, p.y), high = std::max(high, p.y);
    drawn.push_back(p);
  }
  if (drawn.empty()) return "<p>no finite points</p>\n";
  const Frame frame{Axis::around(left, right), Axis::around(std::min(low, 0.0), high)};
  std::string svg = opened(frame, x_name, y_name, fmt::format("{} against {}", y_name, x_name));

  std::stable_sort(drawn.begin(), drawn.end(),
                   [](const ChartPoint& a, const ChartPoint& b) { return a.x != b.x ? a.x < b.x : a.y < b.y; });
  std::string front;
  double best = INFINITY;
  for (const ChartPoint& p : drawn)
    if (p.y < best)
      best = p.y, front += fmt::format("{}{:.1f} {:.1f}", front.empty() ? "M" : "L", frame.at_x(p.x), frame.at_y(p.y));
  svg += fmt::format("<path class=\"front\" d=\"{}\"/>\n", front);
  for (const ChartPoint& p : drawn) {
    const double x = frame.at_x(p.x), y = frame.at_y(p.y);
    if (std::isfinite(p.y_error) && p.y_error > 0)
      svg += fmt::format("<path class=\"error\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>\n", x, frame.at_y(p.y - p.y_error),
                         frame.at_y(p.y + p.y_error));
    const bool near_right = x > kWidth - 160;
    svg += fmt::format(R"(<circle class="c0" cx="{:.1f}" cy="{:.1f}" r="4"/><text class="label" x="{:.1f}" y="{:.1f}")"
                       R"({}>{}</text>)"
                       "\n",
                       x, y, near_right ? x - 7 : x + 7, y - 5, near_right ? " text-anchor=\"end\"" : "",
                       html_escaped(p.name));
  }
  return svg + "</svg>\n";
}

}  // namespace fettle::host
