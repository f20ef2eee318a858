// SPDX-License-Identifier: Apache-2.0
#include "magnitude.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cmath>

namespace magnitude {

void score(fettle::kit::MutMatrix weights) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, weights.rows, 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (float& w : weights.row(i)) w = std::fabs(w);
  });
}

}  // namespace magnitude
