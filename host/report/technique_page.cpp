// SPDX-License-Identifier: Apache-2.0
#include "host/report/technique_page.h"

#include "host/report/table.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <array>
#include <span>

namespace fettle::host {
namespace {

using Json = nlohmann::ordered_json;

std::span<const fettle_port> inputs_of(const fettle_technique& t) { return {t.inputs, t.input_count}; }
std::span<const fettle_port> outputs_of(const fettle_technique& t) { return {t.outputs, t.output_count}; }
std::span<const fettle_param> params_of(const fettle_technique& t) { return {t.params, t.param_count}; }

const char* determinism_text(std::uint32_t value) {
  static constexpr std::array<const char*, 3> texts{"the same bytes on every machine",
                                                    "the same bytes on machines with the same instruction set",
                                                    "the same bytes on the same device"};
  return texts.at(value);
}

std::string presence(const fettle_port& port) {
  const bool optional = port.flags & FETTLE_PORT_OPTIONAL;
  if (port.flags & FETTLE_PORT_LIST) return optional ? "any number" : "list";
  return optional ? "optional" : "required";
}

std::string default_text(const fettle_param& p) {
  if (p.flags & FETTLE_PARAM_REQUIRED) return "required";
  if (p.flags & FETTLE_PARAM_OPTIONAL) return "none";
  return p.default_text;
}

std::string help_text(const fettle_param& p) {
  const std::string range = range_text(p);
  return std::string(p.help) + (range.empty() ? "" : "; " + range);
}

std::string or_empty(const char* text) { return text ? text : ""; }

/// A step that uses the technique, with everything that must be written.
std::string example_step(const fettle_technique& t) {
  const std::string id = t.id;
  std::string text = "steps:\n  result:\n    use: " + id + "\n";
  std::string in, with;
  for (const fettle_port& p : inputs_of(t))
    if (!(p.flags & FETTLE_PORT_OPTIONAL))
      in += (in.empty() ? "" : ", ") + std::string(p.name) + ": " +
            (p.flags & FETTLE_PORT_LIST ? "[a, b]" : "my-" + std::string(p.name));
  std::size_t shown = 0;
  for (const fettle_param& p : params_of(t)) {
    const bool required = p.flags & FETTLE_PARAM_REQUIRED;
    if (!required && (!p.default_text || shown >= 2)) continue;
    with += (with.empty() ? "" : ", ") + std::string(p.name) + ": " +
            (p.default_text ? p.default_text
             : p.choices    ? p.choices[0]
                            : "...");
    ++shown;
  }
  if (!in.empty()) text += "    in: {" + in + "}\n";
  if (!with.empty()) text += "    with: {" + with + "}\n";
  return text;
}

Table port_table(std::span<const fettle_port> ports, bool inputs) {
  Table table(inputs ? std::vector<std::string>{"port", "kind", "given", "accepts", "meaning"}
                     : std::vector<std::string>{"port", "kind", "meaning"});
  for (const fettle_port& p : ports) {
    if (inputs)
      table.add({p.name, p.kind, presence(p), p.accepts ? p.accepts : "any", p.help});
    else
      table.add({p.name, p.kind, p.help});
  }
  return table;
}

Table param_table(const fettle_technique& t) {
  Table table({"parameter", "type", "default", "unit", "meaning"});
  for (const fettle_param& p : params_of(t))
    table.add({p.name, type_text(p), default_text(p), or_empty(p.unit), help_text(p)});
  return table;
}

/// The page once, in either dress: sections of (title, text or table).
template <class Heading, class Body>
void sections(const Technique& technique, const Heading& heading, const Body& table) {
  const fettle_technique& t = *technique.table;
  if (t.input_count) heading("Inputs"), table(port_table(inputs_of(t), true));
  if (t.output_count) heading("Outputs"), table(port_table(outputs_of(t), false));
  if (t.param_count) heading("Parameters"), table(param_table(t));
}

Json ports_json(std::span<const fettle_port> ports) {
  Json list = Json::array();
  for (const fettle_port& p : ports) {
    Json port = {{"name", p.name},
                 {"kind", p.kind},
                 {"help", p.help},
                 {"optional", (p.flags & FETTLE_PORT_OPTIONAL) != 0},
                 {"list", (p.flags & FETTLE_PORT_LIST) != 0}};
    if (p.accepts) port["accepts"] = p.accepts;
    list.push_back(std::move(port));
  }
  return list;
}

}  // namespace

std::string type_text(const fettle_param& p) {
  static constexpr std::array<const char*, 9> names{"none",  "bool", "int",      "float", "string",
                                                    "count", "size", "duration", "path"};
  const std::string name = names.at(p.type);
  return p.shape == FETTLE_LIST ? "list of " + name : p.shape == FETTLE_MAP ? "map of " + name : name;
}

std::string range_text(const fettle_param& p) {
  if (p.choices) {
    std::string text;
    for (const char* const* c = p.choices; *c; ++c) text += (text.empty() ? "" : ", ") + std::string(*c);
    return "one of " + text;
  }
  const bool min = p.flags & FETTLE_PARAM_HAS_MIN, max = p.flags & FETTLE_PARAM_HAS_MAX;
  if (min && max) return fmt::format("{:.15g} to {:.15g}", p.min, p.max);
  if (min) return fmt::format("at least {:.15g}", p.min);
  if (max) return fmt::format("at most {:.15g}", p.max);
  return "";
}

Json default_json(const fettle_param& p) {
  if (!p.default_text) return nullptr;
  Json value = Json::parse(p.default_text, nullptr, false);
  return value.is_discarded() ? Json(p.default_text) : value;
}

std::string technique_text(const Technique& technique) {
  const fettle_technique& t = *technique.table;
  std::string text = fmt::format("{}  {}\n\n{}\n", t.id, t.version, t.help);
  if (t.reference) text += fmt::format("Reference: {}\n", t.reference);
  text += fmt::format("Gives {}. Epoch {}. From plugin {} {} ({}, {}).\n", determinism_text(t.determinism), t.epoch,
                      technique.plugin->library->name, technique.plugin->library->version,
                      technique.plugin->library->vendor, technique.plugin->library->licence);
  for (std::uint32_t i = 0; i < t.service_count; ++i) text += fmt::format("Needs service {}.\n", t.services[i]);
  sections(
      technique, [&](const char* title) { text += fmt::format("\n{}\n", title); },
      [&](const Table& table) { text += table.text(2); });
  text += "\nExample\n";
  std::string line;
  for (const char c : example_step(t)) {
    line += c;
    if (c == '\n') text += "  " + line, line.clear();
  }
  return text;
}

std::string technique_markdown(const Technique& technique) {
  const fettle_technique& t = *technique.table;
  std::string text = fmt::format(
      "# {}\n\n<!-- Generated by `fettle describe --all --markdown DIR`; do not edit. -->\n\n{}\n\n", t.id, t.help);
  if (t.reference) text += fmt::format("Reference: {}\n\n", t.reference);
  text += fmt::format("Version {}, epoch {}. Gives {}. Plugin: {}.\n", t.version, t.epoch,
                      determinism_text(t.determinism), technique.plugin->library->name);
  for (std::uint32_t i = 0; i < t.service_count; ++i) text += fmt::format("\nNeeds the service `{}`.\n", t.services[i]);
  sections(
      technique, [&](const char* title) { text += fmt::format("\n## {}\n\n", title); },
      [&](const Table& table) { text += table.markdown(); });
  return text + "\n## Example\n\n```yaml\n" + example_step(t) + "```\n";
}

std::string techniques_markdown(const std::vector<const Technique*>& techniques) {
  Table table({"technique", "what it does"});
  for (const Technique* t : techniques) table.add({fmt::format("[{0}]({0}.md)", t->id()), t->table->help});
  return "# Techniques\n\n<!-- Generated by `fettle describe --all --markdown DIR`; do not edit. -->\n\n" +
         table.markdown();
}

Json technique_json(const Technique& technique) {
  static constexpr std::array<const char*, 3> classes{"portable", "isa", "device"};
  const fettle_technique& t = *technique.table;
  Json params = Json::array();
  for (const fettle_param& p : params_of(t)) {
    Json param = {{"name", p.name}, {"type", type_text(p)}, {"help", p.help}};
    if (p.unit) param["unit"] = p.unit;
    if (p.flags & FETTLE_PARAM_REQUIRED) param["required"] = true;
    if (p.default_text) param["default"] = default_json(p);
    if (p.flags & FETTLE_PARAM_HAS_MIN) param["min"] = p.min;
    if (p.flags & FETTLE_PARAM_HAS_MAX) param["max"] = p.max;
    for (const char* const* c = p.choices; c && *c; ++c) param["choices"].push_back(*c);
    params.push_back(std::move(param));
  }
  Json services = Json::array();
  for (std::uint32_t i = 0; i < t.service_count; ++i) services.push_back(t.services[i]);
  return {{"id", t.id},
          {"help", t.help},
          {"version", t.version},
          {"epoch", t.epoch},
          {"reference", t.reference ? Json(t.reference) : Json()},
          {"determinism", classes.at(t.determinism)},
          {"plugin", technique.plugin->library->name},
          {"plugin_path", technique.plugin->path},
          {"plugin_digest", technique.plugin->digest},
          {"services", services},
          {"inputs", ports_json(inputs_of(t))},
          {"outputs", ports_json(outputs_of(t))},
          {"params", params}};
}

}  // namespace fettle::host
