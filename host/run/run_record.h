// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/run/run.h"

#include <string>

namespace fettle::host {

const char* name_of(StepState state);  ///< "done"
const char* name_of(OutputResult::State state);

/// Writes what happened to <store>/runs/<utc-time>-<pipeline>.json and lets <store>/runs/latest point there. Returns
/// the path.
Result<std::string> write_run_record(const Plan& plan, const Store& store, const RunResult& result);

}  // namespace fettle::host
