// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>
#include <string.h>

// f16 <-> f32 in plain integer arithmetic. C headers and static functions only, so that files compiled for one
// instruction set may include it: nothing here can be merged with another file's copy.

namespace fettle::kit {

/// Exact.
static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits = 0;
  float value = 0;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    bits = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  if (magnitude < 0x400u) {  // zero and subnormals: multiples of 2^-24
    value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  bits = sign | ((magnitude << 13) + (112u << 23));
  memcpy(&value, &bits, sizeof value);
  return value;
}

/// To nearest, ties to even; beyond the range infinity; any NaN becomes the quiet NaN of its sign, as in ggml.
static inline uint16_t float_to_half(float value) {
  uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 2^16
  uint32_t scaled = 0, shift = 13;
  if (magnitude >= 0x38800000u) {  // >= 2^-14: normal
    scaled = magnitude - (112u << 23);
  } else {
    shift = 126u - (magnitude >> 23);
    if (shift > 25u) return static_cast<uint16_t>(sign);  // under half of the smallest subnormal
    scaled = (magnitude & 0x7fffffu) | 0x800000u;
  }
  const uint32_t rounded = (scaled + (1u << (shift - 1)) - 1u + (scaled >> shift & 1u)) >> shift;
  return static_cast<uint16_t>(sign | rounded);  // a carry out of the mantissa ends in the exponent, where it belongs
}

}  // namespace fettle::kit
