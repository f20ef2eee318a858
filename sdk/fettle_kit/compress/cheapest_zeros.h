// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/mask.h"
#include "fettle_kit/compress/pruning.h"
#include "fettle_kit/compress/score_histogram.h"
#include "fettle_kit/compress/sweep.h"

#include <cstdint>
#include <span>
#include <utility>

namespace fettle::kit {

/// Chooses what to zero while a sweep passes: the weights whose removal costs least, w^2 / U_jj^2, judged by their
/// compensated values (SparseGPT, Frantar & Alistarh 2023, arXiv:2301.00774, section 3.2). A share is taken of each
/// block of columns when the sweep reaches it, N:M of each group when it reaches the group. [different rows: any
/// thread]
class CheapestZeros {
 public:
  CheapestZeros(std::int64_t rows, std::int64_t cols, const SparsityTarget& target)
      : target_(target), mask_(rows, cols) {}
  /// As SweepRule::begin_block(). Adds what the block's weights would cost to `costs`, if given.
  void begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal,
                   ScoreHistogram* costs = nullptr);
  /// Whether the sweep keeps weight (row, column), which it has reached; rest and diagonal as in SweepRule::value().
  bool keeps(std::int64_t row, std::int64_t column, std::span<const float> rest, std::span<const double> diagonal);
  const Mask& mask() const { return mask_; }
  Mask take_mask() && { return std::move(mask_); }

 private:
  SparsityTarget target_;
  Mask mask_;
};

}  // namespace fettle::kit
