// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/cli/command_line.h"
#include "host/pipeline/pipeline.h"

#include <nlohmann/json_fwd.hpp>

#include <memory>

namespace fettle::host {

/// Prints all findings to stderr and returns the exit code that fits: 0 without errors.
int report_findings(const Diagnostics& diagnostics, const Options& options);

/// Findings as JSON: severity, category, file, line, column, message, notes.
nlohmann::ordered_json findings_json(const Diagnostics& diagnostics);

/// --store, or .fettle beside the pipeline.
std::string store_folder(const Options& options, const Pipeline& pipeline);

}  // namespace fettle::host
