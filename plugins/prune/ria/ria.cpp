// SPDX-License-Identifier: Apache-2.0
#include "ria.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace ria {

namespace {

double inverse(double sum) { return sum > 0 ? 1 / sum : 0; }

}  // namespace

void score(fettle::kit::MutMatrix weights, std::span<const float> input_norm, double exponent) {
  const std::size_t cols = input_norm.size();
  std::vector<double> column(cols), input(cols);
  for (std::int64_t i = 0; i < weights.rows; ++i)
    for (std::size_t j = 0; j < cols; ++j) column[j] += std::fabs(static_cast<double>(weights.row(i)[j]));
  for (std::size_t j = 0; j < cols; ++j) {
    column[j] = inverse(column[j]);
    // pow of the C library is correctly rounded for the common exponents only; sqrt is for all
    input[j] = exponent == 0.5 ? std::sqrt(static_cast<double>(input_norm[j]))
                               : std::pow(static_cast<double>(input_norm[j]), exponent);
  }
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, weights.rows, 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i) {
      const auto row = weights.row(i);
      double sum = 0;
      for (const float w : row) sum += std::fabs(static_cast<double>(w));
      const double of_row = inverse(sum);
      for (std::size_t j = 0; j < cols; ++j)
        row[j] = static_cast<float>(std::fabs(static_cast<double>(row[j])) * (column[j] + of_row) * input[j]);
    }
  });
}

}  // namespace ria
