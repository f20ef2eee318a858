// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"

#include "host/cli/carry_out.h"
#include "host/cli/verbs.h"
#include "host/report/quantity.h"
#include "host/report/table.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <memory>

// Measures models without a pipeline file: the pipeline of one step is built here, and what the same plugins found
// before on the same files comes from the store.

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

struct Request {
  std::string technique;
  std::vector<std::pair<std::string, std::string>> models;  ///< port, path
  std::vector<std::string> texts;
  std::vector<std::string> with;  ///< PARAM=VALUE
};

Status add_input(Pipeline& pipeline, Step& step, const std::string& port, const std::string& kind,
                 const std::vector<std::string>& paths) {
  PipelineInput input;
  input.name = port;
  input.kind = kind;
  for (const std::string& path : paths) {
    std::error_code failed;
    if (!fs::exists(path, failed)) return {Code::not_found, fmt::format("'{}': no such file or folder", path)};
    input.paths.push_back(fs::absolute(path).lexically_normal());
    input.written += (input.written.empty() ? "" : " ") + path;
  }
  pipeline.inputs.push_back(std::move(input));
  Node key;
  key.kind = Node::Kind::scalar;
  key.text = port;
  Reference from;
  from.name = port;
  step.in.emplace_back(std::move(key), std::vector<Reference>{std::move(from)});
  return {};
}

Result<Pipeline> pipeline_of(const Request& request) {
  Pipeline pipeline;
  pipeline.name = request.technique;
  pipeline.directory = fs::current_path();
  Step step;
  step.name = step.base = "eval";
  step.use = request.technique;
  for (const auto& [port, path] : request.models) FETTLE_TRY(add_input(pipeline, step, port, "model", {path}));
  FETTLE_TRY(add_input(pipeline, step, "text", "text", request.texts));
  for (const std::string& text : request.with) {
    const auto source = std::make_shared<SourceText>(SourceText{"--with", text});
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      return Status{Code::invalid_argument, fmt::format("--with '{}': expected PARAM=VALUE", text)};
    Node name, value;
    name.kind = value.kind = Node::Kind::scalar;
    name.text = text.substr(0, equals);
    name.where = {source, 1, 1, static_cast<int>(equals)};
    value.text = text.substr(equals + 1);
    value.where = {source, 1, static_cast<int>(equals) + 2, static_cast<int>(text.size() - equals - 1)};
    step.with.push_back({std::move(name), std::move(value)});
  }
  pipeline.steps.push_back(std::move(step));
  return pipeline;
}

int evaluate(const Options& options, const Request& request) {
  Result<Pipeline> pipeline = pipeline_of(request);
  if (!pipeline)
    return pipeline.error().code() == Code::invalid_argument ? fail(exit_usage, pipeline.error().message())
                                                             : fail(pipeline.error());
  Prepared prepared;
  const auto shared = std::make_shared<const Pipeline>(*std::move(pipeline));
  if (const int code = prepare(shared, options, StoreUse::make, prepared); code != exit_done) return code;
  const Result<RunResult> result = carry_out(prepared, options, true);
  if (!result) return fail(result.error());
  repeat_complaints(prepared.plan, *result);
  if (const int code = exit_code_of(*result); code != exit_done) return code;
  const std::map<std::string, Metric>& metrics = result->steps[0].record->metrics;
  if (options.json) {
    nlohmann::ordered_json document = nlohmann::ordered_json::object();
    for (const auto& [name, m] : metrics) {
      document[name] = {{"value", m.value}};
      if (m.standard_error) document[name]["standard_error"] = *m.standard_error;
      if (!m.unit.empty()) document[name]["unit"] = m.unit;
    }
    print_json(document);
    return exit_done;
  }
  Table table({"metric", "value>", "unit"});
  const bool utf8 = terminal_of(1, options.color).utf8;
  for (const auto& [name, m] : metrics) table.add({name, show_measured(m.value, m.standard_error, utf8), m.unit});
  print(table.text());
  return exit_done;
}

void add_measurement(CLI::App& verb, Options& options, Action& action, const char* name, const char* help,
                     const char* example, std::string technique, const std::vector<const char*>& models) {
  CLI::App* sub = verb.add_subcommand(name, help);
  sub->footer(std::string("Example:\n  ") + example);
  const auto request = std::make_shared<Request>();
  request->technique = std::move(technique);
  for (const char* port : models) request->models.emplace_back(port, "");
  for (auto& [port, path] : request->models)
    sub->add_option(port, path, "A checkpoint folder or a .gguf file")->required()->type_name("PATH");
  sub->add_option("text", request->texts, "Text files to measure on")->required()->type_name("FILE");
  sub->add_option("--with", request->with,
                  "A parameter of " + request->technique + " ('fettle describe' lists them); may be repeated")
      ->type_name("PARAM=VALUE")
      ->allow_extra_args(false);
  add_machine_options(*sub, options);
  sub->add_option("--store", options.store, "Where results are kept (default: .fettle)")->type_name("DIR");
  add_plugin_options(*sub, options);
  add_json_option(*sub, options);
  add_common_options(*sub, options);
  sub->callback([&options, &action, request] { action = [&options, request] { return evaluate(options, *request); }; });
}

}  // namespace

void add_eval_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("eval", "Measure a model without a pipeline");
  verb->footer("Example:\n  fettle eval perplexity pipelines/data/prose-3m pipelines/data/held-out.txt");
  verb->require_subcommand(0, 1);
  add_measurement(*verb, options, action, "perplexity", "How well a model predicts a text",
                  "fettle eval perplexity pipelines/data/prose-3m pipelines/data/held-out.txt --with length=512",
                  "eval.perplexity", {"model"});
  add_measurement(*verb, options, action, "compare", "How far a model is from another on a text",
                  "fettle eval compare out/quickstart/prose-3m-dense-Q4_K_M.gguf pipelines/data/prose-3m "
                  "pipelines/data/held-out.txt",
                  "eval.compare", {"candidate", "reference"});
}

}  // namespace fettle::host
