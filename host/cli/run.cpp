// SPDX-License-Identifier: Apache-2.0
#include "host/run/run.h"

#include "fettle_kit/io/json.h"

#include "host/cli/carry_out.h"
#include "host/cli/verbs.h"
#include "host/report/run_report.h"

#include <CLI/Formatter.hpp>
#include <nlohmann/json.hpp>

#include <memory>

namespace fettle::host {
namespace {

struct Request {
  std::string file;
  bool keep_going = false;
  bool fail_fast = false;
};

int run(const Options& options, const Request& request) {
  Prepared prepared;
  if (const int code = prepare(request.file, options, StoreUse::make, prepared); code != exit_done) {
    if (options.json) print_json({{"findings", findings_json(prepared.findings)}});
    return code;
  }
  const Result<RunResult> result = carry_out(prepared, options, !request.fail_fast);
  if (!result) return fail(result.error());
  repeat_complaints(prepared.plan, *result);
  if (options.json) {
    Result<kit::Json> record = kit::read_json_file(result->run_record);
    if (!record) return fail(record.error());
    (*record)["run_record"] = result->run_record;
    print_json(*record);
  } else {
    const Result<RunReport> report = read_run_report(result->run_record);
    if (!report) return fail(report.error());
    print(run_report_text(*report, terminal_of(1, options.color).utf8));
  }
  return exit_code_of(*result);
}

}  // namespace

void add_run_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("run", "Run a pipeline; what is in the store already is not computed again");
  verb->footer(
      "Examples:\n  fettle run pipelines/quickstart.yaml\n  fettle run pipelines/quickstart.yaml --set "
      "steps.sample.with.max_tokens=20 --jobs 8 --memory 24GiB");
  const auto request = std::make_shared<Request>();
  verb->add_option("pipeline", request->file, "The YAML file")->required()->type_name("FILE");
  CLI::Option* keep_going = verb->add_flag("--keep-going", request->keep_going,
                                           "After a failure go on with what does not depend on it (default)");
  verb->add_flag("--fail-fast", request->fail_fast, "After a failure start nothing more")->excludes(keep_going);
  add_pipeline_options(*verb, options);
  add_machine_options(*verb, options);
  add_store_option(*verb, options);
  add_plugin_options(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, request] { action = [&options, request] { return run(options, *request); }; });
}

}  // namespace fettle::host
