// SPDX-License-Identifier: Apache-2.0
#include "host/cli/pipeline_file.h"

#include <nlohmann/json.hpp>

#include <cstdio>

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

std::string store_folder(const Options& options, const Pipeline& pipeline) {
  return options.store.empty() ? pipeline.directory + "/.fettle" : options.store;
}

}  // namespace fettle::host
