// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/cheapest_zeros.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <array>
#include <vector>

namespace fettle::kit {

namespace {

float cost(float weight, double diagonal) {
  const double scaled = static_cast<double>(weight) / diagonal;
  return static_cast<float>(scaled * scaled);
}

}  // namespace

void CheapestZeros::begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal,
                                ScoreHistogram* histogram) {
  if (target_.pattern && histogram == nullptr) return;
  std::vector<float> costs(static_cast<std::size_t>(w.rows * w.cols));
  const MutMatrix block(costs.data(), w.rows, w.cols);
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (std::int64_t j = 0; j < w.cols; ++j) block(i, j) = cost(w(i, j), diagonal[static_cast<std::size_t>(j)]);
  });
  if (histogram != nullptr) histogram->add(block, target_.pattern ? Group::row : target_.group);
  if (target_.pattern) return;
  const Mask chosen = mask_of(block, target_);
  for (std::int64_t i = 0; i < w.rows; ++i)
    for (std::int64_t j = 0; j < w.cols; ++j)
      if (!chosen.kept(i, j)) mask_.prune(i, first + j);
}

bool CheapestZeros::keeps(std::int64_t row, std::int64_t column, std::span<const float> rest,
                          std::span<const double> diagonal) {
  if (target_.pattern && column % target_.pattern->m == 0) {
    const auto m = static_cast<std::size_t>(target_.pattern->m);
    std::array<float, 64> costs{};  // parse_n_of_m allows no more
    for (std::size_t j = 0; j < m; ++j) costs[j] = cost(rest[j], diagonal[j]);
    const std::uint64_t kept = keep_n_of_m(costs.data(), *target_.pattern);
    for (std::size_t j = 0; j < m; ++j)
      if ((kept >> j & 1) == 0) mask_.prune(row, column + static_cast<std::int64_t>(j));
  }
  return mask_.kept(row, column);
}

}  // namespace fettle::kit
