// SPDX-License-Identifier: Apache-2.0
#include "sparsegpt.h"

#include <array>
#include <vector>

namespace sparsegpt {

using namespace fettle::kit;

namespace {

float cost(float weight, double diagonal) {
  const double scaled = static_cast<double>(weight) / diagonal;
  return static_cast<float>(scaled * scaled);
}

}  // namespace

void Rule::begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal) {
  if (target_.pattern) return;
  std::vector<float> costs(static_cast<std::size_t>(w.rows * w.cols));
  for (std::int64_t i = 0; i < w.rows; ++i)
    for (std::int64_t j = 0; j < w.cols; ++j)
      costs[static_cast<std::size_t>(i * w.cols + j)] = cost(w(i, j), diagonal[static_cast<std::size_t>(j)]);
  const Mask chosen = mask_of(ConstMatrix(costs.data(), w.rows, w.cols), target_);
  for (std::int64_t i = 0; i < w.rows; ++i)
    for (std::int64_t j = 0; j < w.cols; ++j)
      if (!chosen.kept(i, j)) mask_.prune(i, first + j);
}

float Rule::value(std::int64_t row, std::int64_t column, std::span<const float> rest,
                  std::span<const double> diagonal) {
  if (target_.pattern && column % target_.pattern->m == 0) {
    const auto m = static_cast<std::size_t>(target_.pattern->m);
    std::array<float, 64> costs{};  // parse_n_of_m allows no more
    for (std::size_t j = 0; j < m; ++j) costs[j] = cost(rest[j], diagonal[j]);
    const std::uint64_t kept = keep_n_of_m(costs.data(), *target_.pattern);
    for (std::size_t j = 0; j < m; ++j)
      if ((kept >> j & 1) == 0) mask_.prune(row, column + static_cast<std::int64_t>(j));
  }
  return mask_.kept(row, column) ? rest[0] : 0.0F;
}

}  // namespace sparsegpt
