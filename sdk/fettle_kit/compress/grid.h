// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/tensor/matrix.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fettle::kit {

/// Which weights share a scale.
enum class Sharing {
  group,    ///< group_size neighbours of a row
  channel,  ///< a row
  tensor,   ///< the matrix
};

/// A uniform grid: value = scale * (code - zero), codes 0 .. 2^bits - 1, zero one of them, so that 0 is exact.
struct GridScheme {
  int bits = 4;           ///< 2 to 8
  bool symmetric = true;  ///< zero = 2^(bits - 1)
  Sharing sharing = Sharing::group;
  std::int64_t group_size = 128;  ///< with Sharing::group; divides the columns
  /// Scales are rounded to this type before any weight is rounded with them, so that what a file holds is what was
  /// optimized. f32, f16 or bf16.
  DType scale_type = DType::f32;
  /// Symmetric: false: scale = 2 amax / (2^bits - 1), where +amax itself is cut by half a step, as in GPTQ and
  /// compressed-tensors. true: scale = amax / (2^(bits-1) - 1), the codes -7 .. 7 of AutoAWQ.
  bool narrow = false;
  /// Asymmetric: whether a range that does not reach 0 is stretched to it (all but AutoAWQ do so).
  bool reaches_zero = true;
  /// Not empty: shrink the range by 0 to 79 % and take what minimizes sum |error|^search (2.4 in the GPTQ reference).
  std::optional<double> search;

  int codes() const { return 1 << bits; }
  /// Columns that share a scale, and scales a row.
  std::int64_t span(std::int64_t cols) const { return sharing == Sharing::group ? group_size : cols; }
  std::int64_t groups(std::int64_t cols) const { return cols / span(cols); }
};

/// The grid of one group.
struct Steps {
  float scale = 1;  ///< > 0, finite
  std::int32_t zero = 0;
};

/// Rounds half to even for |v| < 2^22.
inline float nearest_level(float v) { return (v + 12582912.0F) - 12582912.0F; }

/// How many steps from zero the grid point nearest to w is: clamp(round(w / scale)) into the grid. w not NaN.
inline float level_of(float w, const Steps& s, int bits) {
  const auto least = static_cast<float>(-s.zero), most = static_cast<float>((1 << bits) - 1 - s.zero);
  return nearest_level(std::min(std::max(w / s.scale, least), most));
}

/// The grid for a group of weights (finite). A group of zeros gets the range -1 .. 1.
Steps fit_steps(std::span<const float> weights, const GridScheme& scheme);

/// A matrix on a grid.
struct CodedMatrix {
  std::int64_t rows = 0, cols = 0, groups = 0;
  int bits = 4;
  std::vector<std::uint8_t> codes;     ///< [rows, cols]
  std::vector<float> scales;           ///< [rows, groups]; with Sharing::tensor all the same
  std::vector<std::uint8_t> zeros;     ///< [rows, groups]
  std::vector<std::int32_t> group_of;  ///< [cols], the group of each column

  CodedMatrix() = default;
  CodedMatrix(std::int64_t rows, std::int64_t cols, const GridScheme& scheme);  ///< group_of: neighbours
  float value(std::int64_t i, std::int64_t j) const;
  /// out [n, cols]: the values of rows from `first` on.
  void read(std::int64_t first, MutMatrix out) const;
  void set(std::int64_t row, std::int64_t group, const Steps& steps);
  Steps steps(std::int64_t row, std::int64_t group) const;
};

/// The grids of all groups of w as they stand, codes still 0. Runs on the caller's TBB arena; the same bits for any
/// number of threads.
CodedMatrix fit_grids(ConstMatrix w, const GridScheme& scheme);

/// Round to nearest: every weight to its group's grid. w finite.
CodedMatrix round_to_grid(ConstMatrix w, const GridScheme& scheme);

}  // namespace fettle::kit
