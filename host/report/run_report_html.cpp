// SPDX-License-Identifier: Apache-2.0
#include "host/report/chart.h"
#include "host/report/curves.h"
#include "host/report/metric_tables.h"
#include "host/report/quantity.h"
#include "host/report/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace fettle::host {
namespace {

// Eight colours that people with any colour vision tell apart (Okabe and Ito 2008), on light and on dark.
constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; } p.about { color: var(--soft); margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th.number, td.number { text-align: right; } td.digest { font-family: ui-monospace, monospace; color: var(--soft); }
.failed, .notmet { color: #d55e00; font-weight: 600; } .cached { color: var(--soft); }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: currentColor; } svg text.axis { fill: var(--soft); }
.grid { stroke: var(--line); } .line { fill: none; stroke-width: 1.6; } .front { fill: none; stroke: var(--soft); stroke-dasharray: 4 3; }
.error { stroke: var(--soft); } .legend span { margin-right: 1rem; white-space: nowrap; } .legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; border-radius: 2px; vertical-align: -1px; }
path.c0 { stroke: #0072b2; } path.c1 { stroke: #e69f00; } path.c2 { stroke: #009e73; } path.c3 { stroke: #cc79a7; }
path.c4 { stroke: #56b4e9; } path.c5 { stroke: #d55e00; } path.c6 { stroke: #999999; } path.c7 { stroke: #b8a800; }
i.c0, .c0 { background: #0072b2; fill: #0072b2; } i.c1 { background: #e69f00; } i.c2 { background: #009e73; } i.c3 { background: #cc79a7; }
i.c4 { background: #56b4e9; } i.c5 { background: #d55e00; } i.c6 { background: #999999; } i.c7 { background: #b8a800; }
path.line { fill: none; }
)";

std::string table_html(const Table& table) {
  std::string html = "<div class=\"wide\"><table>\n";
  const auto row = [&](const std::vector<std::string>& cells, const char* tag) {
    html += "<tr>";
    for (std::size_t c = 0; c < cells.size(); ++c)
      html +=
          fmt::format("<{0}{1}>{2}</{0}>", tag, table.is_right(c) ? " class=\"number\"" : "", html_escaped(cells[c]));
    html += "</tr>\n";
  };
  row(table.columns(), "th");
  for (const auto& cells : table.rows()) row(cells, "td");
  return html + "</table></div>\n";
}

std::string steps_html(const RunReport& report) {
  Table table({"step", "technique", "state", "time>", "peak memory>", "estimated>"});
  for (const RunReport::Step& s : report.steps)
    table.add({s.name, s.technique, s.state, s.seconds ? show_seconds(*s.seconds) : "-",
               s.peak_memory ? show_bytes(s.peak_memory) : "-",
               s.estimated_memory ? show_bytes(s.estimated_memory) : "-"});
  std::string html = "<h2>Steps</h2>\n" + table_html(table);
  for (const RunReport::Step& s : report.steps) {
    for (const std::string& why : {s.error, s.reason})
      if (!why.empty())
        html += fmt::format("<p class=\"failed\">{}: {}</p>\n", html_escaped(s.name), html_escaped(why));
    for (const std::string& warning : s.warnings)
      html += fmt::format("<p>warning of {}: {}</p>\n", html_escaped(s.name), html_escaped(warning));
  }
  return html;
}

std::string gates_html(const RunReport& report) {
  Table table({"step", "gate", "measured", "verdict"});
  for (const RunReport::Step& s : report.steps)
    for (const RunReport::Gate& g : s.gates)
      table.add({s.name, g.require, g.measured, g.passed ? "passed" : "not met"});
  return table.empty() ? "" : "<h2>Gates</h2>\n" + table_html(table);
}

std::string series_html(const RunReport& report) {
  std::string html;
  for (const Curves& chart : curves_of(report))
    html += fmt::format("<h2>{} of {}</h2>\n{}", html_escaped(chart.name), html_escaped(chart.technique),
                        line_chart(chart.lines));
  return html;
}

/// Size against quality, where a run compared several candidates with a reference.
std::string pareto_html(const RunReport& report) {
  std::vector<ChartPoint> points;
  for (const RunReport::Step& step : report.steps) {
    const RunReport::Metric* kl = nullptr;
    const RunReport::Metric* bytes = nullptr;
    for (const RunReport::Metric& metric : step.metrics) {
      if (metric.name == "kl") kl = &metric;
      if (metric.name == "bytes") bytes = &metric;
    }
    if (kl && bytes) points.push_back({step.name, bytes->value / 1048576, kl->value, kl->standard_error.value_or(0)});
  }
  const auto same_size = [&](const ChartPoint& p) { return p.x == points.front().x; };
  if (std::all_of(points.begin(), points.end(), same_size)) return "";
  return "<h2>Size against quality</h2>\n" + pareto_chart(points, "MiB", "KL to the reference, nats a token");
}

std::string provenance_html(const RunReport& report) {
  Table table({"what", "kind", "size>", "digest"});
  for (const RunReport::Input& i : report.inputs) table.add({"input " + i.name, i.kind, "", i.digest});
  for (const RunReport::Step& s : report.steps)
    for (const RunReport::Artifact& a : s.outputs)
      table.add({s.name + "." + a.port, a.kind, show_bytes(a.bytes), a.digest});
  std::string html = "<h2>Inputs and artifacts</h2>\n" + table_html(table);
  Table outputs({"output", "state", "size>", "path", "why"});
  for (const RunReport::Output& o : report.outputs)
    outputs.add({o.name, o.state, o.bytes ? show_bytes(o.bytes) : "-", o.path, o.reason});
  if (!outputs.empty()) html += "<h2>Outputs</h2>\n" + table_html(outputs);
  Table vars({"var", "value"});
  for (const auto& [name, value] : report.vars) vars.add({name, value});
  if (!vars.empty()) html += "<h2>Variables</h2>\n" + table_html(vars);
  return html;
}

}  // namespace

std::string run_report_html(const RunReport& report) {
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>{0}</title><style>{1}</style></head>\n<body>\n<h1>{0}</h1>\n"
      "<p class=\"about\">{2} &middot; ended {3} &middot; {4} in all &middot; fettle {5} &middot; {6}, {7}{8}</p>\n",
      html_escaped(report.pipeline), kStyle, html_escaped(report.file), html_escaped(report.ended),
      show_seconds(report.seconds), html_escaped(report.version), html_escaped(report.cpu), html_escaped(report.isa),
      report.interrupted ? " &middot; <b class=\"failed\">interrupted</b>" : "");
  html += gates_html(report) + pareto_html(report);
  for (const Table& metrics : metric_tables(report, true))
    html += fmt::format("<h2>{}</h2>\n", html_escaped(metrics.columns().front())) + table_html(metrics);
  html += series_html(report) + steps_html(report) + provenance_html(report);
  return html + "</body>\n</html>\n";
}

}  // namespace fettle::host
