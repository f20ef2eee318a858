// SPDX-License-Identifier: Apache-2.0
#include "host/cli/pipeline_file.h"

#include "host/log/log.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <utility>

namespace fettle::host {
namespace {

ExitCode exit_code_of(const Diagnostics& diagnostics) {
  const auto category = diagnostics.category();
  if (!category) return exit_done;
  switch (*category) {
    case Diagnostic::Category::input_missing:
      return exit_input_missing;
    case Diagnostic::Category::does_not_fit:
      return exit_does_not_fit;
    case Diagnostic::Category::invalid:
      break;
  }
  return exit_pipeline_invalid;
}

}  // namespace

nlohmann::ordered_json findings_json(const Diagnostics& diagnostics) {
  static const char* const categories[] = {"invalid", "input missing", "does not fit"};
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Diagnostic& d : diagnostics.all())
    list.push_back({{"severity", d.severity == Diagnostic::Severity::error ? "error" : "warning"},
                    {"category", categories[static_cast<int>(d.category)]},
                    {"file", d.where.source ? d.where.source->name : ""},
                    {"line", d.where.line},
                    {"column", d.where.column},
                    {"message", d.message},
                    {"notes", d.notes}});
  return list;
}

int report_findings(const Diagnostics& diagnostics, const Options& options) {
  const ExitCode code = exit_code_of(diagnostics);
  if (diagnostics.all().empty() || (options.quiet && code == exit_done)) return code;
  const std::string text = diagnostics.text(terminal_of(2, options.color).color);
  std::fwrite(text.data(), 1, text.size(), stderr);
  return code;
}

int prepare(const std::string& file, const Options& options, StoreUse use, Prepared& prepared) {
  auto pipeline =
      std::make_shared<const Pipeline>(load_pipeline(file, {options.sets, options.profiles}, prepared.findings));
  // Names and types can still be checked against the plugins, so that everything is reported at once.
  return prepare(std::move(pipeline), options, use, prepared);
}

int prepare(std::shared_ptr<const Pipeline> pipeline, const Options& options, StoreUse use, Prepared& prepared) {
  prepared.pipeline = std::move(pipeline);
  prepared.registry = std::make_unique<const Registry>(load_plugins(options));
  if (!prepared.findings.has_errors()) {
    const std::string root = options.store.empty() ? prepared.pipeline->directory + "/.fettle" : options.store;
    std::error_code ignored;
    if (use == StoreUse::make || std::filesystem::is_directory(root, ignored)) {
      Result<Store> store = Store::open(root);
      const bool refused = !store.ok() && store.error().code() != Code::corrupt_data;  // no right to write, no room
      const std::string advice = "; name another store with --store DIR";
      if (store.ok()) {
        prepared.store = *std::move(store);
      } else if (refused && use == StoreUse::look) {
        log(LogLevel::warning, "looked up nothing: " + store.error().message() + advice);
      } else {
        return refused ? fail(exit_step_failed, store.error().message() + advice)
                       : fail(exit_store_damaged, store.error().message());
      }
    }
  }
  if (!prepared.pipeline->steps.empty())
    prepared.plan = make_plan(prepared.pipeline, *prepared.registry, prepared.store ? &*prepared.store : nullptr,
                              prepared.findings, {options.jobs, options.memory});
  return report_findings(prepared.findings, options);
}

}  // namespace fettle::host
