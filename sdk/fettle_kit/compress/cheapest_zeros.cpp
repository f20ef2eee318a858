// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/cheapest_zeros.h"

#include "fettle_kit/tensor/every_isa.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <vector>

namespace fettle::kit {

namespace {

constexpr std::int64_t tile = 16;    // rows looked at together
constexpr std::int64_t most_m = 64;  // parse_n_of_m allows no more

float cost(float weight, double diagonal) {
  const double scaled = static_cast<double>(weight) / diagonal;
  return static_cast<float>(scaled * scaled);
}

FETTLE_EVERY_ISA void costs_of_row(const float* __restrict w, const double* __restrict diagonal, std::int64_t size,
                                   float* __restrict costs) {
  for (std::int64_t j = 0; j < size; ++j) costs[j] = cost(w[j], diagonal[j]);
}

/// Ranks the m weights of a group in each row: rank[j, i] is how many of row i cost more than weight j, or as much and
/// stand before it. [m, tile], as keep_n_of_m() ranks them.
FETTLE_EVERY_ISA void rank_groups(const float* rest, std::int64_t stride, const double* diagonal, std::int64_t rows,
                                  std::int64_t m, std::int32_t* __restrict rank) {
  float costs[most_m * tile];
  for (std::int64_t j = 0; j < m; ++j) {
    float column[tile] = {};
    for (std::int64_t i = 0; i < rows; ++i) column[i] = rest[i * stride + j];
    for (std::int64_t i = 0; i < tile; ++i) costs[j * tile + i] = cost(column[i], diagonal[j]);
  }
  for (std::int64_t j = 0; j < m; ++j) {
    std::int32_t* const of = rank + j * tile;
    for (std::int64_t i = 0; i < tile; ++i) of[i] = 0;
    for (std::int64_t k = 0; k < j; ++k)
      for (std::int64_t i = 0; i < tile; ++i) of[i] += costs[k * tile + i] >= costs[j * tile + i] ? 1 : 0;
    for (std::int64_t k = j + 1; k < m; ++k)
      for (std::int64_t i = 0; i < tile; ++i) of[i] += costs[k * tile + i] > costs[j * tile + i] ? 1 : 0;
  }
}

}  // namespace

void CheapestZeros::begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal,
                                ScoreHistogram* histogram) {
  if (target_.pattern && histogram == nullptr) return;
  std::vector<float> costs(static_cast<std::size_t>(w.rows * w.cols));
  const MutMatrix block(costs.data(), w.rows, w.cols);
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      costs_of_row(w.data + i * w.stride, diagonal.data(), w.cols, block.row(i).data());
  });
  if (histogram != nullptr) histogram->add(block, target_.pattern ? Group::row : target_.group);
  if (target_.pattern) return;
  mask_.prune_columns(first, mask_of(block, target_));
}

void CheapestZeros::reach(std::int64_t row, std::int64_t rows, std::int64_t column, const float* rest,
                          std::int64_t stride, std::span<const double> diagonal) {
  if (!target_.pattern || column % target_.pattern->m != 0) return;
  const std::int64_t m = target_.pattern->m;
  std::int32_t rank[most_m * tile];
  for (std::int64_t first = 0; first < rows; first += tile) {
    const std::int64_t count = std::min(tile, rows - first);
    rank_groups(rest + first * stride, stride, diagonal.data(), count, m, rank);
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t j = 0; j < m; ++j)
        if (rank[j * tile + i] >= target_.pattern->n) mask_.prune(row + first + i, column + j);
  }
}

std::int64_t CheapestZeros::run() const {
  if (!target_.pattern || 8 % target_.pattern->m == 0 || target_.pattern->m % 8 == 0) return 8;
  return target_.pattern->m <= 16 ? target_.pattern->m : 1;
}

}  // namespace fettle::kit
