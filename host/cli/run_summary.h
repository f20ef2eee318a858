// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/report/table.h"
#include "host/run/run.h"

#include <string>
#include <vector>

namespace fettle::host {

/// Every step: technique, state, time.
Table steps_table(const Plan& plan, const RunResult& result);
/// A table for each technique that reported metrics: a row for each of its steps, a column for each metric; errors as
/// "value ± error".
std::vector<Table> metrics_tables(const Plan& plan, const RunResult& result, bool utf8);
/// What became of each output.
Table outputs_table(const RunResult& result);
/// The three above with what gates said and where the record is: what `fettle run` prints at the end.
std::string run_summary(const Plan& plan, const RunResult& result, bool utf8);

}  // namespace fettle::host
