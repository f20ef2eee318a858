// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

// Included by the files of one instruction set, so nothing here may contain code.

namespace fettle::kit {

/// x [rows, cols] to blocks; importance [cols] or null.
using RowQuantizer = void (*)(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance);

/// The quantizers of one instruction set; null where the reference serves. The same bytes as the reference.
struct RowQuantizers {
  RowQuantizer q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4, nvfp4, iq2_xxs,
      iq2_xs, iq2_s, iq3_xxs, iq3_s, iq1_s, iq1_m;
};

extern const RowQuantizers row_quantizers_avx2, row_quantizers_avx512;

}  // namespace fettle::kit
