// SPDX-License-Identifier: Apache-2.0
#include "host/report/graph.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <map>
#include <vector>

namespace fettle::host {
namespace {

struct GraphNode {
  std::string name;   ///< unique among the nodes
  std::string label;  ///< second line: technique, kind or path
  enum class Shape { input, step, output } shape = Shape::step;
};
struct Edge {
  std::string from, to;
  std::string label;   ///< the port it feeds
  bool order = false;  ///< only `after`, a gate or a `when`: no artifact flows
};
struct Graph {
  std::vector<GraphNode> nodes;
  std::vector<Edge> edges;
};

Graph graph_of(const Pipeline& p) {
  Graph g;
  for (const PipelineInput& i : p.inputs) g.nodes.push_back({i.name, i.kind, GraphNode::Shape::input});
  for (const Step& s : p.steps) g.nodes.push_back({s.name, s.use, GraphNode::Shape::step});
  for (const PipelineOutput& o : p.outputs) g.nodes.push_back({"output " + o.name, o.path, GraphNode::Shape::output});
  for (const Step& s : p.steps) {
    for (const auto& [port, references] : s.in)
      for (const Reference& r : references) g.edges.push_back({r.full_name(), s.name, port.text, false});
    for (const Reference& r : s.after) g.edges.push_back({r.full_name(), s.name, "after", true});
    const auto metrics = [&](const Expression& e, const char* label) {
      for (const Expression::MetricRef& m : e.metrics())
        if (!m.step.empty() && m.step != s.name) g.edges.push_back({m.step, s.name, label, true});
    };
    if (s.when) metrics(*s.when, "when");
    for (const Gate& gate : s.gates) metrics(gate.require, "gate");
  }
  for (const PipelineOutput& o : p.outputs) g.edges.push_back({o.from.full_name(), "output " + o.name, "", false});
  return g;
}

std::string dot_quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string mermaid_quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("#quot;") : std::string(1, c);
  return out + "\"";
}

}  // namespace

std::string graph_dot(const Pipeline& pipeline) {
  static const std::map<GraphNode::Shape, const char*> shapes{
      {GraphNode::Shape::input, "cylinder"}, {GraphNode::Shape::step, "box"}, {GraphNode::Shape::output, "note"}};
  const Graph g = graph_of(pipeline);
  std::string text = "digraph pipeline {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n";
  for (const GraphNode& n : g.nodes) {
    std::string label = dot_quoted(n.name + "\n" + n.label);
    for (std::size_t at; (at = label.find('\n')) != std::string::npos;) label.replace(at, 1, "\\n");
    text += fmt::format("  {} [shape={}, label={}];\n", dot_quoted(n.name), shapes.at(n.shape), label);
  }
  for (const Edge& e : g.edges)
    text += fmt::format("  {} -> {} [label={}{}];\n", dot_quoted(e.from), dot_quoted(e.to), dot_quoted(e.label),
                        e.order ? ", style=dashed" : "");
  return text + "}\n";
}

std::string graph_mermaid(const Pipeline& pipeline) {
  const Graph g = graph_of(pipeline);
  std::map<std::string, std::size_t> ids;
  std::string text = "flowchart LR\n";
  for (const GraphNode& n : g.nodes) {
    const std::size_t id = ids.emplace(n.name, ids.size()).first->second;
    const std::string label = mermaid_quoted(n.name + "<br/>" + n.label);
    const bool input = n.shape == GraphNode::Shape::input;
    const bool output = n.shape == GraphNode::Shape::output;
    text += fmt::format("  n{}{}{}{}\n", id,
                        input    ? "[("
                        : output ? "(["
                                 : "[",
                        label,
                        input    ? ")]"
                        : output ? "])"
                                 : "]");
  }
  for (const Edge& e : g.edges)
    if (ids.count(e.from) && ids.count(e.to))
      text += fmt::format("  n{} {}{} n{}\n", ids[e.from], e.order ? "-.->" : "-->",
                          e.label.empty() ? "" : "|" + mermaid_quoted(e.label) + "|", ids[e.to]);
  return text;
}

std::string graph_text(const Pipeline& pipeline) {
  const Graph g = graph_of(pipeline);
  std::string text;
  for (const GraphNode& n : g.nodes) {
    text += fmt::format("{}  ({})\n", n.name, n.label);
    for (const Edge& e : g.edges)
      if (e.to == n.name)
        text += fmt::format("  <- {}{}\n", e.from,
                            e.label.empty() ? ""
                            : e.order       ? " (" + e.label + ")"
                                            : " as " + e.label);
  }
  return text;
}

std::string graph_json(const Pipeline& pipeline) {
  static const std::map<GraphNode::Shape, const char*> shapes{
      {GraphNode::Shape::input, "input"}, {GraphNode::Shape::step, "step"}, {GraphNode::Shape::output, "output"}};
  const Graph g = graph_of(pipeline);
  nlohmann::ordered_json nodes = nlohmann::ordered_json::array(), edges = nlohmann::ordered_json::array();
  for (const GraphNode& n : g.nodes)
    nodes.push_back({{"name", n.name}, {"is", shapes.at(n.shape)}, {"label", n.label}});
  for (const Edge& e : g.edges)
    edges.push_back({{"from", e.from}, {"to", e.to}, {"port", e.label}, {"order_only", e.order}});
  return nlohmann::ordered_json{{"nodes", nodes}, {"edges", edges}}.dump(
             2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

}  // namespace fettle::host
