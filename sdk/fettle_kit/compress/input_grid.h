// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <cstdint>

namespace fettle::kit {

/// What a client rounds the inputs of a linear to before it multiplies: the A8 of W8A8, the A4 of W4A4.
struct InputGrid {
  enum class Kind {
    none,
    fp8_fixed,   ///< E4M3 by `scale`
    fp8_token,   ///< E4M3 by a scale for each row, its largest magnitude / 448
    fp8_group,   ///< E4M3 by such a scale for every `group` columns
    int8_fixed,  ///< -128 .. 127 by `scale`
    int8_token,  ///< by a scale for each row, its largest magnitude / 127.5
    nvfp4,       ///< E2M1 by scales in E4M3 of 16 columns, over the divisor `scale`
    mxfp4,       ///< E2M1 by powers of two of 32 columns (PowerScale::nearest)
  };
  Kind kind = Kind::none;
  float scale = 1;
  std::int64_t group = 0;
};

/// out [n, width] = the grid's numbers nearest to x; may be x itself. NaN stays in its group. The width must be a
/// multiple of the grid's groups. Runs on the caller's TBB arena.
void round_inputs(MutMatrix out, ConstMatrix x, const InputGrid& grid);

}  // namespace fettle::kit
