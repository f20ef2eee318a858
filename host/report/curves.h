// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/report/chart.h"
#include "host/report/run_report.h"
#include "host/report/table.h"

#include <string>
#include <vector>

namespace fettle::host {

/// What shares a chart: the series of one name that steps of one technique reported, and those of held-out data
/// (held_out_<name>) beside them.
struct Curves {
  std::string technique, name;
  std::vector<ChartLine> lines;
  bool of_losses() const { return name.ends_with("loss"); }
};
/// Losses first, which people look for, else in the order of the record.
std::vector<Curves> curves_of(const RunReport& report);

/// The losses in a table each: first, least and last value and, with UTF-8, the curve as a line of blocks.
std::vector<Table> loss_tables(const RunReport& report, bool utf8);

}  // namespace fettle::host
