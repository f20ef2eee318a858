// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/report/run_report.h"
#include "host/report/table.h"

#include <vector>

namespace fettle::host {

/// A table for each technique that reported numbers, in the order of the run: a row a step, a column a metric.
std::vector<Table> metric_tables(const RunReport& report, bool utf8);

}  // namespace fettle::host
