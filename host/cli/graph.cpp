// SPDX-License-Identifier: Apache-2.0
#include "host/report/graph.h"

#include "host/cli/pipeline_file.h"
#include "host/cli/verbs.h"

#include <CLI/Formatter.hpp>

#include <memory>

namespace fettle::host {
namespace {

struct Request {
  std::string pipeline;
  std::string format = "text";
};

int graph(const Options& options, const Request& request) {
  Diagnostics diagnostics;
  const Pipeline pipeline = load_pipeline(request.pipeline, {options.sets, options.profiles}, diagnostics);
  if (const int code = report_findings(diagnostics, options); code != exit_done) return code;
  print(options.json                  ? graph_json(pipeline)
        : request.format == "dot"     ? graph_dot(pipeline)
        : request.format == "mermaid" ? graph_mermaid(pipeline)
                                      : graph_text(pipeline));
  return exit_done;
}

}  // namespace

void add_graph_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("graph", "Draw the steps of a pipeline and what flows between them");
  verb->footer("Example:\n  fettle graph pipelines/quickstart.yaml --format mermaid");
  const auto request = std::make_shared<Request>();
  verb->add_option("pipeline", request->pipeline, "The YAML file")->required()->type_name("FILE");
  verb->add_option("--format", request->format, "text (default), dot (Graphviz) or mermaid")
      ->check(one_of_words({"text", "dot", "mermaid"}))
      ->type_name("FORMAT");
  add_pipeline_options(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, request] { action = [&options, request] { return graph(options, *request); }; });
}

}  // namespace fettle::host
