// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/cheapest_zeros.h"

namespace sparsegpt {

/// Zeroes the cheapest weights and leaves the others as the sweep has compensated them (Frantar & Alistarh 2023,
/// arXiv:2301.00774, section 3).
class Rule final : public fettle::kit::SweepRule {
 public:
  /// `costs`: counts what weights would cost to zero, if not null.
  Rule(std::int64_t rows, std::int64_t cols, const fettle::kit::SparsityTarget& target,
       fettle::kit::ScoreHistogram* costs = nullptr)
      : zeros_(rows, cols, target), costs_(costs) {}
  void begin_block(std::int64_t first, fettle::kit::ConstMatrix w, std::span<const double> diagonal) override {
    zeros_.begin_block(first, w, diagonal, costs_);
  }
  float value(std::int64_t row, std::int64_t column, std::span<const float> rest,
              std::span<const double> diagonal) override {
    return zeros_.keeps(row, column, rest, diagonal) ? rest[0] : 0.0F;
  }
  fettle::kit::Mask take_mask() && { return std::move(zeros_).take_mask(); }

 private:
  fettle::kit::CheapestZeros zeros_;
  fettle::kit::ScoreHistogram* costs_;
};

}  // namespace sparsegpt
