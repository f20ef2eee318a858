// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/dtype.h"

#include <cstdint>
#include <span>
#include <vector>

namespace fettle::kit {

/// The grids of one row of a matrix, a scale and a zero point a group. Which group a column belongs to: that of its
/// neighbours, cols / groups each, or what `group_of` [cols] says if it is not empty.
struct GridRow {
  std::vector<float> scales;
  std::vector<std::int32_t> zeros;
  std::span<const std::int32_t> group_of;

  explicit GridRow(std::int64_t groups, std::int32_t zero = 0, std::span<const std::int32_t> columns = {})
      : scales(static_cast<std::size_t>(groups)), zeros(scales.size(), zero), group_of(columns) {}
  /// out[j] = scale * (codes[j] - zero), both of the group of j.
  void values(std::span<float> out, const std::uint8_t* codes) const;
  /// The same for codes of 4 bits: (words[j] >> shift) & 15.
  void values(std::span<float> out, const std::uint32_t* words, int shift) const;
};

}  // namespace fettle::kit
