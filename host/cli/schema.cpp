// SPDX-License-Identifier: Apache-2.0
#include "host/cli/verbs.h"
#include "host/report/technique_page.h"

#include <CLI/Formatter.hpp>
#include <nlohmann/json.hpp>

// A JSON Schema (draft-07, what editors understand) of pipeline files, from the techniques of the loaded plugins.

namespace fettle::host {
namespace {

using Json = nlohmann::ordered_json;

const char* const interpolation = "\\$\\{";  // wherever a typed scalar may stand, so may "${vars.x}"

Json object(Json properties, Json required = Json::array()) {
  Json schema = {{"type", "object"}, {"additionalProperties", false}, {"properties", std::move(properties)}};
  if (!required.empty()) schema["required"] = std::move(required);
  return schema;
}

Json map_of(Json schema) { return {{"type", "object"}, {"additionalProperties", std::move(schema)}}; }

Json text(const char* description) { return {{"type", "string"}, {"description", description}}; }

/// A scalar of a parameter's type, or a string with ${...}.
Json scalar_schema(const fettle_param& p) {
  Json schema;
  switch (p.type) {
    case FETTLE_TYPE_BOOL:
      schema = {{"type", {"boolean", "string"}}, {"pattern", interpolation}};
      break;
    case FETTLE_TYPE_INT:
      schema = {{"type", {"integer", "string"}}, {"pattern", interpolation}};
      break;
    case FETTLE_TYPE_FLOAT:
      schema = {{"type", {"number", "string"}}, {"pattern", interpolation}};
      break;
    case FETTLE_TYPE_COUNT:
      schema = {{"type", {"integer", "string"}}, {"pattern", "^[0-9.]+[kMGT]$|\\$\\{"}};
      break;
    case FETTLE_TYPE_SIZE:
      schema = {{"type", "string"}, {"pattern", "^[0-9.]+ ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$|\\$\\{"}};
      break;
    case FETTLE_TYPE_DURATION:
      schema = {{"type", "string"}, {"pattern", "^[0-9.]+ ?(ms|s|min|h|d)$|\\$\\{"}};
      break;
    default:
      schema = {{"type", "string"}};
      break;
  }
  if (p.choices) {
    Json choices = Json::array();
    for (const char* const* c = p.choices; *c; ++c) choices.push_back(*c);
    schema = {{"anyOf", {{{"enum", choices}}, {{"type", "string"}, {"pattern", interpolation}}}}};
  }
  const bool numeric = p.type == FETTLE_TYPE_INT || p.type == FETTLE_TYPE_FLOAT || p.type == FETTLE_TYPE_COUNT;
  if (numeric && (p.flags & FETTLE_PARAM_HAS_MIN)) schema["minimum"] = p.min;
  if (numeric && (p.flags & FETTLE_PARAM_HAS_MAX)) schema["maximum"] = p.max;
  return schema;
}

Json param_schema(const fettle_param& p) {
  Json schema = scalar_schema(p);
  const Json whole = {{"type", "string"}, {"pattern", interpolation}};
  if (p.shape == FETTLE_LIST) schema = {{"anyOf", {{{"type", "array"}, {"items", schema}}, whole}}};
  if (p.shape == FETTLE_MAP) schema = map_of(schema);
  std::string description = p.help;
  if (p.unit) description += std::string(" (") + p.unit + ")";
  if (const std::string range = range_text(p); !range.empty()) description += "; " + range;
  schema["description"] = description;
  if (p.default_text) schema["default"] = default_json(p);
  return schema;
}

/// if `use` is this technique, then its parameters and ports.
Json technique_rule(const fettle_technique& t) {
  Json params = Json::object(), ports = Json::object();
  Json required_params = Json::array(), required_ports = Json::array();
  for (std::uint32_t i = 0; i < t.param_count; ++i) {
    params[t.params[i].name] = param_schema(t.params[i]);
    if (t.params[i].flags & FETTLE_PARAM_REQUIRED) required_params.push_back(t.params[i].name);
  }
  for (std::uint32_t i = 0; i < t.input_count; ++i) {
    const fettle_port& p = t.inputs[i];
    ports[p.name] = {{"$ref", p.flags & FETTLE_PORT_LIST ? "#/definitions/references" : "#/definitions/reference"},
                     {"description", std::string(p.help) + " (" + p.kind + ")"}};
    if (!(p.flags & FETTLE_PORT_OPTIONAL)) required_ports.push_back(p.name);
  }
  Json then = {{"properties", {{"with", object(params, required_params)}, {"in", object(ports, required_ports)}}}};
  return {{"if", {{"properties", {{"use", {{"const", t.id}}}}}, {"required", {"use"}}}}, {"then", then}};
}

Json step_schema(const std::vector<const Technique*>& techniques) {
  Json ids = Json::array(), rules = Json::array();
  for (const Technique* t : techniques) {
    ids.push_back({{"const", t->table->id}, {"description", t->table->help}});
    rules.push_back(technique_rule(*t->table));
  }
  ids.push_back({{"type", "string"}, {"pattern", interpolation}});
  const Json names = {{"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "string"}}}}}}};
  Json after = names,
       gate = {{"anyOf",
                {{{"$ref", "#/definitions/gate"}}, {{"type", "array"}, {"items", {{"$ref", "#/definitions/gate"}}}}}}};
  after["description"] = "steps that must finish first";
  Json schema = object(
      {{"use", {{"description", "the technique"}, {"anyOf", ids}}},
       {"in", {{"type", "object"}, {"description", "port: a step, step.port, or an input"}}},
       {"with", {{"type", "object"}, {"description", "parameters"}}},
       {"gate", gate},
       {"after", after},
       {"when", text("an expression over metrics; the step is skipped if it is false")},
       {"matrix", {{"type", "object"}, {"description", "axes: one instance of the step for each combination"}}},
       {"each", text("a step with a matrix: one instance for each of its instances")},
       {"seed", {{"type", {"integer", "string"}}, {"minimum", 0}, {"pattern", interpolation}}},
       {"resources",
        object({{"cores", {{"type", {"integer", "string"}}, {"minimum", 1}}}, {"memory", text("such as 24GiB")}})},
       {"isolate", {{"type", {"boolean", "string"}}, {"description", "run in a process of its own"}}}},
      {"use"});
  schema["allOf"] = std::move(rules);
  return schema;
}

Json pipeline_schema(const Registry& registry) {
  const Json any_scalar = {{"type", {"string", "number", "boolean", "array", "null"}}};
  const Json kinds = {{"enum", {"model", "tokens", "text", "stats", "targets", "mask", "metrics", "file"}}};
  const Json variable =
      object({{"type", {{"enum", {"path", "int", "float", "count", "size", "duration", "string", "bool", "list"}}}},
              {"default", any_scalar},
              {"min", {{"type", {"number", "string"}}}},
              {"max", {{"type", {"number", "string"}}}},
              {"one_of", {{"type", "array"}}},
              {"choices", {{"type", "array"}}},
              {"help", text("one line")}},
             {"type"});
  const Json path = {{"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "string"}}}}}},
                     {"description", "relative to this file; * and ? match files"}};
  Json schema =
      object({{"fettle", {{"const", 1}, {"description", "the version of this format"}}},
              {"name", text("of the pipeline")},
              {"description", text("what it is for")},
              {"vars", map_of(variable)},
              {"inputs", map_of(object({{"kind", kinds}, {"path", path}}, {"kind", "path"}))},
              {"steps", map_of({{"$ref", "#/definitions/step"}})},
              {"outputs", map_of(object({{"from", text("a step or step.port")},
                                         {"path", text("where to; {instance} where several are written")},
                                         {"when_gates", {{"enum", {"pass", "any"}}}}},
                                        {"from", "path"}))},
              {"profiles", map_of(object({{"vars", {{"type", "object"}}}, {"steps", {{"type", "object"}}}}))}},
             {"fettle", "steps"});
  Json head = {{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", "Fettle pipeline"}};
  head.update(schema);
  head["definitions"] = {
      {"reference", {{"type", "string"}}},
      {"references", {{"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "string"}}}}}}}},
      {"gate", object({{"require", text("an expression over metrics, such as ppl <= before.ppl * 1.15")},
                       {"on_fail", {{"enum", {"stop", "fail", "warn"}}}},
                       {"because", text("why it matters")}},
                      {"require"})},
      {"step", step_schema(registry.techniques())}};
  return head;
}

}  // namespace

void add_schema_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("schema", "Print a JSON Schema of pipelines, for editors");
  verb->footer(
      "Example:\n  fettle schema > fettle.schema.json\n\n"
      "Then the first line of a pipeline may be\n  # yaml-language-server: $schema=fettle.schema.json");
  add_plugin_options(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&] {
    action = [&options] {
      print_json(pipeline_schema(load_plugins(options)));
      return exit_done;
    };
  });
}

}  // namespace fettle::host
