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
  /// The sweep has come to a column of these rows: from now on mask() knows which of its weights are kept. Arguments as
  /// in SweepRule::values().
  void reach(std::int64_t row, std::int64_t rows, std::int64_t column, const float* rest, std::int64_t stride,
             std::span<const double> diagonal);
  const Mask& mask() const { return mask_; }
  /// For SweepRule::run().
  std::int64_t run() const;
  Mask take_mask() && { return std::move(mask_); }

 private:
  SparsityTarget target_;
  Mask mask_;
};

}  // namespace fettle::kit
