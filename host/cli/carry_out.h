// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/cli/pipeline_file.h"
#include "host/run/run.h"

namespace fettle::host {

/// Runs a prepared pipeline with a display on stderr; the first SIGINT or SIGTERM stops it, the second ends the
/// process.
Result<RunResult> carry_out(Prepared& prepared, const Options& options, bool keep_going);

/// Errors and warnings of the steps again, on stderr.
void repeat_complaints(const Plan& plan, const RunResult& result);

/// 130 interrupted, 7 a step or output failed, 3 a gate did not hold, 0 done: the first that applies.
int exit_code_of(const RunResult& result);

}  // namespace fettle::host
