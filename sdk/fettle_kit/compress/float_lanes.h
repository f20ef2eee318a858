// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stddef.h>
#include <stdint.h>

// Included by the files of one instruction set, so nothing here may contain code.

namespace fettle::kit {

/// The loops of float_grids.cpp for one instruction set; all give the same bytes. Blocks of E2M1 are 16 or 32 floats
/// with one scale each.
struct FloatLanes {
  uint32_t (*magnitude)(const float* x, size_t n);  ///< bits of the largest |x|, NaN above all
  /// The encoders return sum (x - what it is encoded as)^2.
  float (*e4m3)(const float* x, size_t n, float scale, uint8_t* codes);
  float (*squares)(const float* x, size_t n);  ///< sum x^2
  /// out[i] = E4M3(codes[i]) / divisor of codes without sign; n a multiple of 16.
  void (*e4m3_quotients)(const uint8_t* codes, size_t n, float divisor, float* out);
  float (*e2m1)(const float* x, size_t blocks, size_t block, const float* scales, uint8_t* packed);
  /// errors[b] = sum over the block of (x - scale * E2M1(x / scale))^2
  void (*e2m1_errors)(const float* x, size_t blocks, size_t block, const float* scales, float* errors);
  /// errors[c] of one block of 16 for `count` scales, a multiple of 16; with `hessian` d^T H d.
  void (*e2m1_candidates)(const float* x, const float* scales, size_t count, const float* hessian, float* errors);
  /// magnitudes[b] = max |x| of the block
  void (*block_magnitudes)(const float* x, size_t blocks, size_t block, float* magnitudes);
};

extern const FloatLanes float_lanes_plain, float_lanes_avx2, float_lanes_avx512;

}  // namespace fettle::kit
