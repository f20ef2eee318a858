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
    zeros_.reach(row, 1, column, rest.data(), 0, diagonal);
    return zeros_.mask().kept(row, column) ? rest[0] : 0.0F;
  }
  void values(std::int64_t row, std::int64_t rows, std::int64_t column, const float* rest, std::int64_t stride,
              std::span<const double> diagonal, float* out) override {
    zeros_.reach(row, rows, column, rest, stride, diagonal);
    const fettle::kit::Mask& mask = zeros_.mask();
    const std::byte* bits = mask.bytes().data() + row * mask.row_bytes() + column / 8;
    const auto bit = std::byte{1} << (column % 8);
    for (std::int64_t i = 0; i < rows; ++i, bits += mask.row_bytes())
      out[i] = (*bits & bit) != std::byte{0} ? rest[i * stride] : 0.0F;
  }
  std::int64_t run() const override { return zeros_.run(); }
  fettle::kit::Mask take_mask() && { return std::move(zeros_).take_mask(); }

 private:
  fettle::kit::CheapestZeros zeros_;
  fettle::kit::ScoreHistogram* costs_;
};

}  // namespace sparsegpt
