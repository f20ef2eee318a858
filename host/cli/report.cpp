// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"

#include "host/cli/verbs.h"
#include "host/report/run_report.h"
#include "host/store/durable.h"

#include <CLI/Formatter.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <filesystem>
#include <memory>

namespace fettle::host {
namespace {

struct Request {
  std::string record, file;
  std::string format = "text";
};

int report(const Options& options, const Request& request) {
  std::string path = request.record;
  if (path.empty()) {
    path = (options.store.empty() ? ".fettle" : options.store) + "/runs/latest";
    std::error_code failed;
    if (!std::filesystem::exists(path, failed))
      return fail(exit_input_missing,
                  fmt::format("no run is recorded at '{}'; name a store with --store DIR, or a record", path));
  }
  if (options.json) {
    const Result<kit::Json> record = kit::read_json_file(path, {.max_bytes = 512u << 20});
    if (!record) return fail(record.error());
    print_json(*record);
    return exit_done;
  }
  const Result<RunReport> report = read_run_report(path);
  if (!report) return fail(report.error());
  const std::string text = request.format == "html" ? run_report_html(*report)
                           : request.format == "markdown"
                               ? run_report_markdown(*report)
                               : run_report_text(*report, terminal_of(1, options.color).utf8);
  if (request.file.empty()) {
    print(text);
    return exit_done;
  }
  if (const Status written = replace_file(request.file, fmt::format("{}.{}.tmp", request.file, ::getpid()), text);
      !written.ok())
    return fail(written);
  return exit_done;
}

}  // namespace

void add_report_verb(CLI::App& program, Options& options, Action& action) {
  CLI::App* verb = program.add_subcommand("report", "Show a finished run again: tables, curves, size against quality");
  verb->footer(
      "Examples:\n  fettle report --store pipelines/.fettle\n  fettle report --store pipelines/.fettle --format html "
      "-o "
      "run.html");
  const auto request = std::make_shared<Request>();
  verb->add_option("record", request->record, "The record of a run; the last run of the store if left out")
      ->type_name("FILE");
  verb->add_option("--format", request->format, "text (default), markdown or html")
      ->check(one_of_words({"text", "markdown", "html"}))
      ->type_name("FORMAT");
  verb->add_option("-o,--output", request->file, "Write to this file, not to stdout")->type_name("FILE");
  add_store_option(*verb, options);
  add_json_option(*verb, options);
  add_common_options(*verb, options);
  verb->callback([&, request] { action = [&options, request] { return report(options, *request); }; });
}

}  // namespace fettle::host
