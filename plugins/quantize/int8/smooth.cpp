// SPDX-License-Identifier: Apache-2.0
#include "smooth.h"

#include <algorithm>
#include <cmath>

namespace smooth {

using namespace fettle::kit;

std::vector<float> scales(std::span<const float> input_max, std::span<const float> weight_max, double alpha) {
  std::vector<float> s(input_max.size(), 1.0F);
  for (std::size_t j = 0; j < s.size(); ++j) {
    const double x = static_cast<double>(input_max[j]), w = static_cast<double>(weight_max[j]);
    const double v = std::pow(x, alpha) / std::pow(w, 1 - alpha);
    if (x > 0 && w > 0 && std::isfinite(v)) s[j] = static_cast<float>(std::clamp(v, 1e-4, 1e4));
  }
  return s;
}

std::vector<float> column_max(std::span<const ConstMatrix> matrices) {
  std::vector<float> most(static_cast<std::size_t>(matrices.front().cols));
  for (const ConstMatrix& w : matrices)
    for (std::int64_t i = 0; i < w.rows; ++i)
      for (std::int64_t j = 0; j < w.cols; ++j)
        most[static_cast<std::size_t>(j)] = std::max(most[static_cast<std::size_t>(j)], std::fabs(w(i, j)));
  return most;
}

}  // namespace smooth
