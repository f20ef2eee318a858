// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/pruning.h"
#include "fettle_kit/compress/sweep.h"

namespace sparsegpt {

/// Chooses what to zero while the sweep passes: the weights whose removal costs least, w^2 / U_jj^2, judged by their
/// compensated values (Frantar & Alistarh 2023, arXiv:2301.00774, section 3.2). A share is taken of each block of
/// columns when the sweep reaches it, N:M of each group when it reaches the group.
class Rule final : public fettle::kit::SweepRule {
 public:
  Rule(std::int64_t rows, std::int64_t cols, const fettle::kit::SparsityTarget& target)
      : target_(target), mask_(rows, cols) {}
  void begin_block(std::int64_t first, fettle::kit::ConstMatrix w, std::span<const double> diagonal) override;
  float value(std::int64_t row, std::int64_t column, std::span<const float> rest,
              std::span<const double> diagonal) override;
  fettle::kit::Mask take_mask() && { return std::move(mask_); }

 private:
  fettle::kit::SparsityTarget target_;
  fettle::kit::Mask mask_;
};

}  // namespace sparsegpt
