// SPDX-License-Identifier: Apache-2.0
#include "wanda.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cmath>

namespace wanda {

void score(fettle::kit::MutMatrix weights, std::span<const float> input_norm) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, weights.rows, 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i) {
      const auto row = weights.row(i);
      for (std::size_t j = 0; j < row.size(); ++j) row[j] = std::fabs(row[j]) * input_norm[j];
    }
  });
}

}  // namespace wanda
