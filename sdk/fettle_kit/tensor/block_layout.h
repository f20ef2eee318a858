// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/half.h"

#include <stdint.h>
#include <string.h>

// Where the codes of a quantized block lie in its bytes (ggml's block types; field offsets as in the file format).
// Packing and unpacking side by side, on plain codes, without arithmetic on the weights. C headers and static functions
// only: the per-instruction-set quantizers include this file too.

namespace fettle::kit::block {

static inline void put_half(uint8_t* to, float value) {
  const uint16_t half = float_to_half(value);
  memcpy(to, &half, sizeof half);
}
static inline float get_half(const uint8_t* from) {
  uint16_t half = 0;
  memcpy(&half, from, sizeof half);
  return half_to_float(half);
}

/// n codes of 4 bits: the first half in the low nibbles, the second half in the high ones (n = 32; 16 for NVFP4).
static inline void pack_nibbles(uint8_t* qs, const uint8_t* codes, int n) {
  for (int j = 0; j < n / 2; ++j) qs[j] = static_cast<uint8_t>((codes[j] & 15) | codes[j + n / 2] << 4);
}
static inline void unpack_nibbles(uint8_t* codes, const uint8_t* qs, int n) {
  for (int j = 0; j < n / 2; ++j) {
    codes[j] = qs[j] & 15;
    codes[j + n / 2] = qs[j] >> 4;
  }
}

/// The fifth bits of 32 codes, code j in bit j.
static inline void pack_fifth_bits(uint8_t* qh, const uint8_t* codes) {
  uint32_t bits = 0;
  for (int j = 0; j < 32; ++j) bits |= static_cast<uint32_t>(codes[j] >> 4 & 1) << j;
  memcpy(qh, &bits, sizeof bits);
}
static inline void unpack_fifth_bits(uint8_t* codes, const uint8_t* qh) {
  uint32_t bits = 0;
  memcpy(&bits, qh, sizeof bits);
  for (int j = 0; j < 32; ++j) codes[j] = static_cast<uint8_t>(codes[j] | (bits >> j & 1) << 4);
}

/// 256 codes of 2 bits (Q2_K, and the low bits of Q3_K): each byte of a half holds values 32 apart.
static inline void pack_pairs(uint8_t* qs, const uint8_t* codes) {
  for (int h = 0; h < 2; ++h)
    for (int l = 0; l < 32; ++l) {
      const uint8_t* c = codes + 128 * h + l;
      qs[32 * h + l] = static_cast<uint8_t>((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
    }
}
static inline void unpack_pairs(uint8_t* codes, const uint8_t* qs) {
  for (int h = 0; h < 2; ++h)
    for (int k = 0; k < 4; ++k)
      for (int l = 0; l < 32; ++l) codes[128 * h + 32 * k + l] = qs[32 * h + l] >> (2 * k) & 3;
}

/// The third bits of the 256 codes of Q3_K.
static inline void pack_third_bits(uint8_t* hmask, const uint8_t* codes) {
  for (int l = 0; l < 32; ++l) {
    uint8_t bits = 0;
    for (int k = 0; k < 8; ++k) bits = static_cast<uint8_t>(bits | (codes[32 * k + l] >> 2 & 1) << k);
    hmask[l] = bits;
  }
}
static inline void unpack_third_bits(uint8_t* codes, const uint8_t* hmask) {
  for (int k = 0; k < 8; ++k)
    for (int l = 0; l < 32; ++l) codes[32 * k + l] = static_cast<uint8_t>(codes[32 * k + l] | (hmask[l] >> k & 1) << 2);
}

/// The sixteen 6-bit scale codes of Q3_K in 12 bytes.
static inline void pack_q3_k_scales(uint8_t* scales, const uint8_t* codes) {
  memset(scales, 0, 12);
  for (int j = 0; j < 16; ++j) {
    scales[j % 8] = static_cast<uint8_t>(scales[j % 8] | (codes[j] & 15) << (j < 8 ? 0 : 4));
    scales[8 + j % 4] = static_cast<uint8_t>(scales[8 + j % 4] | codes[j] >> 4 << (2 * (j / 4)));
  }
}
static inline void unpack_q3_k_scales(uint8_t* codes, const uint8_t* scales) {
  for (int j = 0; j < 16; ++j)
    codes[j] =
        static_cast<uint8_t>((scales[j % 8] >> (j < 8 ? 0 : 4) & 15) | (scales[8 + j % 4] >> (2 * (j / 4)) & 3) << 4);
}

/// The eight 6-bit scale codes and eight 6-bit min codes of Q4_K and Q5_K in 12 bytes.
static inline void pack_q4_k_scales(uint8_t* scales, const uint8_t* scale_codes, const uint8_t* min_codes) {
  for (int j = 0; j < 4; ++j) {
    scales[j] = static_cast<uint8_t>(scale_codes[j] | scale_codes[j + 4] >> 4 << 6);
    scales[j + 4] = static_cast<uint8_t>(min_codes[j] | min_codes[j + 4] >> 4 << 6);
    scales[j + 8] = static_cast<uint8_t>((scale_codes[j + 4] & 15) | min_codes[j + 4] << 4);
  }
}
static inline void unpack_q4_k_scales(uint8_t* scale_codes, uint8_t* min_codes, const uint8_t* scales) {
  for (int j = 0; j < 4; ++j) {
    scale_codes[j] = scales[j] & 63;
    min_codes[j] = scales[j + 4] & 63;
    scale_codes[j + 4] = static_cast<uint8_t>((scales[j + 8] & 15) | scales[j] >> 6 << 4);
    min_codes[j + 4] = static_cast<uint8_t>(scales[j + 8] >> 4 | scales[j + 4] >> 6 << 4);
  }
}

/// The low nibbles of the 256 codes of Q4_K and Q5_K, 64 by 64.
static inline void pack_q4_k_codes(uint8_t* qs, const uint8_t* codes) {
  for (int c = 0; c < 4; ++c) pack_nibbles(qs + 32 * c, codes + 64 * c, 64);
}
static inline void unpack_q4_k_codes(uint8_t* codes, const uint8_t* qs) {
  for (int c = 0; c < 4; ++c) unpack_nibbles(codes + 64 * c, qs + 32 * c, 64);
}

/// The fifth bits of the 256 codes of Q5_K.
static inline void pack_q5_k_high(uint8_t* qh, const uint8_t* codes) {
  for (int l = 0; l < 32; ++l) {
    uint8_t bits = 0;
    for (int k = 0; k < 8; ++k) bits = static_cast<uint8_t>(bits | (codes[32 * k + l] >> 4 & 1) << k);
    qh[l] = bits;
  }
}
static inline void unpack_q5_k_high(uint8_t* codes, const uint8_t* qh) {
  for (int k = 0; k < 8; ++k)
    for (int l = 0; l < 32; ++l) codes[32 * k + l] = static_cast<uint8_t>(codes[32 * k + l] | (qh[l] >> k & 1) << 4);
}

/// The 256 6-bit codes of Q6_K: low nibbles in ql, top pairs in qh.
static inline void pack_q6_k_codes(uint8_t* ql, uint8_t* qh, const uint8_t* codes) {
  for (int h = 0; h < 2; ++h)
    for (int l = 0; l < 32; ++l) {
      const uint8_t* c = codes + 128 * h + l;
      ql[64 * h + l] = static_cast<uint8_t>((c[0] & 15) | c[64] << 4);
      ql[64 * h + 32 + l] = static_cast<uint8_t>((c[32] & 15) | c[96] << 4);
      qh[32 * h + l] = static_cast<uint8_t>(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
    }
}
static inline void unpack_q6_k_codes(uint8_t* codes, const uint8_t* ql, const uint8_t* qh) {
  for (int h = 0; h < 2; ++h)
    for (int l = 0; l < 32; ++l) {
      uint8_t* c = codes + 128 * h + l;
      const uint8_t low = ql[64 * h + l], next = ql[64 * h + 32 + l], top = qh[32 * h + l];
      c[0] = static_cast<uint8_t>((low & 15) | (top & 3) << 4);
      c[32] = static_cast<uint8_t>((next & 15) | (top >> 2 & 3) << 4);
      c[64] = static_cast<uint8_t>(low >> 4 | (top >> 4 & 3) << 4);
      c[96] = static_cast<uint8_t>(next >> 4 | top >> 6 << 4);
    }
}

/// The eight 6-bit scale codes of IQ4_XS.
static inline void pack_iq4_xs_scales(uint8_t* scales_h, uint8_t* scales_l, const uint8_t* codes) {
  uint16_t high = 0;
  for (int b = 0; b < 8; ++b) high = static_cast<uint16_t>(high | codes[b] >> 4 << (2 * b));
  memcpy(scales_h, &high, sizeof high);
  for (int b = 0; b < 4; ++b) scales_l[b] = static_cast<uint8_t>((codes[2 * b] & 15) | codes[2 * b + 1] << 4);
}
static inline void unpack_iq4_xs_scales(uint8_t* codes, const uint8_t* scales_h, const uint8_t* scales_l) {
  uint16_t high = 0;
  memcpy(&high, scales_h, sizeof high);
  for (int b = 0; b < 8; ++b)
    codes[b] = static_cast<uint8_t>((scales_l[b / 2] >> (b % 2 == 0 ? 0 : 4) & 15) | (high >> (2 * b) & 3) << 4);
}

/// 256 trits of TQ2_0, two bits each: a byte holds values 32 apart.
static inline void pack_tq2_0(uint8_t* qs, const uint8_t* trits) { pack_pairs(qs, trits); }

/// 256 trits of TQ1_0, five to a byte as a base-3 fraction of 256, first element most significant.
static inline uint8_t pack_trits(const uint8_t* trits, int stride, int count) {
  int number = 0;
  for (int n = 0; n < 5; ++n) number = number * 3 + (n < count ? trits[n * stride] : 0);
  return static_cast<uint8_t>((number * 256 + 242) / 243);
}
static inline void unpack_trits(uint8_t* trits, int stride, int count, uint8_t byte) {
  for (int n = 0; n < count; ++n) {
    trits[n * stride] = static_cast<uint8_t>(byte * 3 >> 8);
    byte = static_cast<uint8_t>(byte * 3);
  }
}
static inline void pack_tq1_0(uint8_t* qs, uint8_t* qh, const uint8_t* trits) {
  for (int m = 0; m < 32; ++m) qs[m] = pack_trits(trits + m, 32, 5);
  for (int m = 0; m < 16; ++m) qs[32 + m] = pack_trits(trits + 160 + m, 16, 5);
  for (int m = 0; m < 4; ++m) qh[m] = pack_trits(trits + 240 + m, 4, 4);
}
static inline void unpack_tq1_0(uint8_t* trits, const uint8_t* qs, const uint8_t* qh) {
  for (int m = 0; m < 32; ++m) unpack_trits(trits + m, 32, 5, qs[m]);
  for (int m = 0; m < 16; ++m) unpack_trits(trits + 160 + m, 16, 5, qs[32 + m]);
  for (int m = 0; m < 4; ++m) unpack_trits(trits + 240 + m, 4, 4, qh[m]);
}

/// What the sixteen codes of IQ4_NL and IQ4_XS stand for.
constexpr int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/// Twice the E2M1 values of MXFP4 and NVFP4; their scales carry the missing half.
constexpr int8_t fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// The scale byte of MXFP4: 2^(e - 128), half of what E8M0 says.
static inline float e8m0_half(uint8_t e) {
  const uint32_t bits = e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23;
  float value = 0;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/// The scale byte of NVFP4: half of what unsigned E4M3 says; 0x7f counts as 0.
static inline float ue4m3_half(uint8_t code) {
  if (code == 0 || code == 0x7f) return 0;
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
  const uint32_t bits = static_cast<uint32_t>(exponent - 8 + 127) << 23 | static_cast<uint32_t>(mantissa) << 20;
  float value = 0;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/// The scale byte for x: half up on the bit behind the mantissa; never above 0x7e.
static inline uint8_t to_ue4m3(float x) {
  if (!(x > 0)) return 0;
  if (x > 448.0f) x = 448.0f;
  uint32_t bits = 0;
  memcpy(&bits, &x, sizeof bits);
  int exponent = static_cast<int>(bits >> 23) - 127 + 7;
  if (exponent <= 0) {
    const int mantissa = static_cast<int>(x * 512.0f + 0.5f);
    return static_cast<uint8_t>(mantissa > 7 ? 7 : mantissa);
  }
  int mantissa = static_cast<int>(bits >> 20 & 7) + static_cast<int>(bits >> 19 & 1);
  if (mantissa == 8) {
    mantissa = 0;
    ++exponent;
  }
  return exponent >= 15 ? 0x7e : static_cast<uint8_t>(exponent << 3 | mantissa);
}

}  // namespace fettle::kit::block
