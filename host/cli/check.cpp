// SPDX-License-Identifier: Apache-2.0
#include "host/cli/pipeline_file.h"
#include "host/cli/verbs.h"
#include "host/log/log.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <memory>

namespace fettle::host {
namespace {

int check(const Options& options, const std::string& file) {
  Prepared prepared;
  const int code = prepare(file, options, StoreUse::look, prepared);
  if (options.json) {
    print_json({{"good", code == exit_done}, {"findings", findings_json(prepared.findings)}});
  } else if (code == exit_done) {
    print(fmt::format("{}: good, {} steps\n", file, prepared.plan.steps.size()));
  }
  return code;
}

}  // namespace

void add_check_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("check", "Find every mistake of a pipeline without running it");
  verb->footer("Example:\n  fettle check pipelines/quickstart.yaml --set steps.sample.with.max_tokens=20");
  const auto file = std::make_shared<std::string>();
  verb->add_option("pipeline", *file, "The YAML file")->required()->type_name("FILE");
  add_pipeline_options(*verb, options);
  add_machine_options(*verb, options);
  add_store_option(*verb, options);
  add_plugin_options(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, file] { action = [&options, file] { return check(options, *file); }; });
}

}  // namespace fettle::host
