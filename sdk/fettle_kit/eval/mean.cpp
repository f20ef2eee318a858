// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/mean.h"

#include <cmath>
#include <numeric>

namespace fettle::kit {

Mean mean_over_windows(std::span<const double> sums, std::span<const double> weights) {
  const double weight = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double value = std::accumulate(sums.begin(), sums.end(), 0.0) / weight;
  if (sums.size() < 2) return {value, NAN};
  double squares = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const double deviation = sums[i] - value * weights[i];
    squares += deviation * deviation;
  }
  const auto n = static_cast<double>(sums.size());
  return {value, std::sqrt(n / (n - 1) * squares) / weight};
}

}  // namespace fettle::kit
