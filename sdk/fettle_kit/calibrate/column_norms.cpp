// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/column_norms.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cmath>

namespace fettle::kit {

void ColumnNorms::add(ConstMatrix x) {
  // 64 columns: a few cache lines of each row, enough to amortise walking down the rows.
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, x.cols, 64), [&](const auto& columns) {
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const float* const row = x.data + i * x.stride;
      for (std::int64_t j = columns.begin(); j < columns.end(); ++j)
        squares_[static_cast<std::size_t>(j)] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    }
  });
  rows_ += x.rows;
}

std::vector<float> ColumnNorms::l2() const {
  std::vector<float> norms;
  for (const double s : squares_) norms.push_back(static_cast<float>(std::sqrt(s)));
  return norms;
}

}  // namespace fettle::kit
