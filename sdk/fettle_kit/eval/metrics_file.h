// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/eval/mean.h"

#include <string>
#include <vector>

namespace fettle::kit {

struct NamedMetric {
  const char* name;
  Mean mean;  ///< standard error NaN: none
  const char* unit = nullptr;
};

/// Reports each to the host and writes metrics.json into `folder`: {"ppl": {"value": 29.4, "standard_error": 0.2},
/// ...}, with "unit" where there is one. Values that are NaN are left out of both.
Status report_metrics(const Context& context, const std::string& folder, const std::vector<NamedMetric>& metrics);

}  // namespace fettle::kit
