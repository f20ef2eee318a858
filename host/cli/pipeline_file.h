// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/cli/command_line.h"
#include "host/pipeline/pipeline.h"
#include "host/plan/plan.h"
#include "host/store/store.h"

#include <nlohmann/json_fwd.hpp>

#include <memory>
#include <optional>
#include <string>

namespace fettle::host {

/// A pipeline that is ready to run, with what it borrows from.
struct Prepared {
  std::shared_ptr<const Pipeline> pipeline;
  std::unique_ptr<const Registry> registry;
  std::optional<Store> store;
  Plan plan;
  Diagnostics findings;
};

enum class StoreUse { look, make };  ///< look: a store that does not exist is not made

/// Reads, binds and plans; prints all findings. The exit code that fits is 0 only if there are no errors.
int prepare(const std::string& file, const Options& options, StoreUse use, Prepared& prepared);
/// The same for a pipeline that is not in a file.
int prepare(std::shared_ptr<const Pipeline> pipeline, const Options& options, StoreUse use, Prepared& prepared);

/// Prints all findings to stderr and returns the exit code that fits: 0 without errors.
int report_findings(const Diagnostics& diagnostics, const Options& options);

/// Findings as JSON: severity, category, file, line, column, message, notes.
nlohmann::ordered_json findings_json(const Diagnostics& diagnostics);

}  // namespace fettle::host
