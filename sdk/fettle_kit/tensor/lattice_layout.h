// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/block_layout.h"

#include <stdint.h>
#include <string.h>

// Where the parts of a block of the IQ1, IQ2 and IQ3 types lie in its bytes, as block_layout.h does for the others.

namespace fettle::kit::block {

/// 256 values taken apart.
struct LatticeBlock {
  float d;             ///< the scale of the whole block
  uint16_t index[64];  ///< points of groups of 8 values (32 of them) or of 4 (IQ3)
  uint8_t signs[32];   ///< of 8 values each, value i in bit i; IQ1: 1 where the 8 values are shifted down instead of up
  uint8_t scales[16];  ///< codes; each of 16 values (IQ1_M, IQ2_XS, IQ2_S) or of 32
};

/// Seven signs whose eighth makes the number of minus signs even, and the way back.
static inline uint8_t without_parity(uint8_t signs) { return signs & 127; }
static inline uint8_t with_parity(uint8_t code) {
  unsigned odd = code;
  odd ^= odd >> 4;
  odd ^= odd >> 2;
  odd ^= odd >> 1;
  return static_cast<uint8_t>(code | (odd & 1) << 7);
}

/// Four sign codes of seven bits and a scale code of four: IQ2_XXS and IQ3_XXS.
static inline void pack_signs_and_scale(uint8_t* to, const uint8_t* signs, uint8_t scale) {
  uint32_t word = static_cast<uint32_t>(scale) << 28;
  for (int l = 0; l < 4; ++l) word |= static_cast<uint32_t>(without_parity(signs[l])) << (7 * l);
  memcpy(to, &word, sizeof word);
}
static inline void unpack_signs_and_scale(uint8_t* signs, uint8_t* scale, const uint8_t* from) {
  uint32_t word = 0;
  memcpy(&word, from, sizeof word);
  for (int l = 0; l < 4; ++l) signs[l] = with_parity(word >> (7 * l) & 127);
  *scale = static_cast<uint8_t>(word >> 28);
}

/// n codes of four bits, the even ones low.
static inline void pack_pairs_of_nibbles(uint8_t* to, const uint8_t* codes, int n) {
  for (int j = 0; j < n; j += 2) to[j / 2] = static_cast<uint8_t>(codes[j] | codes[j + 1] << 4);
}
static inline void unpack_pairs_of_nibbles(uint8_t* codes, const uint8_t* from, int n) {
  for (int j = 0; j < n; ++j) codes[j] = static_cast<uint8_t>(from[j / 2] >> (4 * (j % 2)) & 15);
}

/// Indices of `count` points: low bytes in qs, the `high` bits above them side by side in qh.
static inline void pack_indices(uint8_t* qs, uint8_t* qh, const uint16_t* index, int count, int high) {
  memset(qh, 0, static_cast<size_t>(count * high / 8));
  for (int g = 0; g < count; ++g) {
    qs[g] = static_cast<uint8_t>(index[g]);
    qh[g * high / 8] = static_cast<uint8_t>(qh[g * high / 8] | index[g] >> 8 << (g * high % 8));
  }
}
static inline void unpack_indices(uint16_t* index, const uint8_t* qs, const uint8_t* qh, int count, int high) {
  for (int g = 0; g < count; ++g)
    index[g] = static_cast<uint16_t>(qs[g] | (qh[g * high / 8] >> (g * high % 8) & ((1 << high) - 1)) << 8);
}

static inline void pack_iq2_xxs(uint8_t* out, const LatticeBlock& b) {
  put_half(out, b.d);
  for (int s = 0; s < 8; ++s) {
    for (int l = 0; l < 4; ++l) out[2 + 8 * s + l] = static_cast<uint8_t>(b.index[4 * s + l]);
    pack_signs_and_scale(out + 6 + 8 * s, b.signs + 4 * s, b.scales[s]);
  }
}
static inline void unpack_iq2_xxs(LatticeBlock& b, const uint8_t* in) {
  b.d = get_half(in);
  for (int s = 0; s < 8; ++s) {
    for (int l = 0; l < 4; ++l) b.index[4 * s + l] = in[2 + 8 * s + l];
    unpack_signs_and_scale(b.signs + 4 * s, b.scales + s, in + 6 + 8 * s);
  }
}

static inline void pack_iq2_xs(uint8_t* out, const LatticeBlock& b) {
  put_half(out, b.d);
  for (int g = 0; g < 32; ++g) {
    const uint16_t word = static_cast<uint16_t>(b.index[g] | without_parity(b.signs[g]) << 9);
    memcpy(out + 2 + 2 * g, &word, sizeof word);
  }
  pack_pairs_of_nibbles(out + 66, b.scales, 16);
}
static inline void unpack_iq2_xs(LatticeBlock& b, const uint8_t* in) {
  b.d = get_half(in);
  for (int g = 0; g < 32; ++g) {
    uint16_t word = 0;
    memcpy(&word, in + 2 + 2 * g, sizeof word);
    b.index[g] = word & 511;
    b.signs[g] = with_parity(static_cast<uint8_t>(word >> 9));
  }
  unpack_pairs_of_nibbles(b.scales, in + 66, 16);
}

static inline void pack_iq2_s(uint8_t* out, const LatticeBlock& b) {
  put_half(out, b.d);
  pack_indices(out + 2, out + 66, b.index, 32, 2);
  memcpy(out + 34, b.signs, 32);
  pack_pairs_of_nibbles(out + 74, b.scales, 16);
}
static inline void unpack_iq2_s(LatticeBlock& b, const uint8_t* in) {
  b.d = get_half(in);
  unpack_indices(b.index, in + 2, in + 66, 32, 2);
  memcpy(b.signs, in + 34, 32);
  unpack_pairs_of_nibbles(b.scales, in + 74, 16);
}

static inline void pack_iq3_xxs(uint8_t* out, const LatticeBlock& b) {
  put_half(out, b.d);
  for (int g = 0; g < 64; ++g) out[2 + g] = static_cast<uint8_t>(b.index[g]);
  for (int s = 0; s < 8; ++s) pack_signs_and_scale(out + 66 + 4 * s, b.signs + 4 * s, b.scales[s]);
}
static inline void unpack_iq3_xxs(LatticeBlock& b, const uint8_t* in) {
  b.d = get_half(in);
  for (int g = 0; g < 64; ++g) b.index[g] = in[2 + g];
  for (int s = 0; s < 8; ++s) unpack_signs_and_scale(b.signs + 4 * s, b.scales + s, in + 66 + 4 * s);
}

static inline void pack_iq3_s(uint8_t* out, const LatticeBlock& b) {
  put_half(out, b.d);
  pack_indices(out + 2, out + 66, b.index, 64, 1);
  memcpy(out + 74, b.signs, 32);
  pack_pairs_of_nibbles(out + 106, b.scales, 8);
}
static inline void unpack_iq3_s(LatticeBlock& b, const uint8_t* in) {
  b.d = get_half(in);
  unpack_indices(b.index, in + 2, in + 66, 64, 1);
  memcpy(b.signs, in + 74, 32);
  unpack_pairs_of_nibbles(b.scales, in + 106, 8);
}

/// A word for 32 values: three bits more of each of four indices, the scale code, the shift.
static inline void pack_iq1_s(uint8_t* out, const LatticeBlock& b) {
  put_half(out, b.d);
  for (int s = 0; s < 8; ++s) {
    unsigned word = static_cast<unsigned>(b.scales[s]) << 12 | static_cast<unsigned>(b.signs[4 * s]) << 15;
    for (int l = 0; l < 4; ++l) {
      out[2 + 4 * s + l] = static_cast<uint8_t>(b.index[4 * s + l]);
      word |= static_cast<unsigned>(b.index[4 * s + l]) >> 8 << (3 * l);
    }
    const uint16_t stored = static_cast<uint16_t>(word);
    memcpy(out + 34 + 2 * s, &stored, sizeof stored);
  }
}
static inline void unpack_iq1_s(LatticeBlock& b, const uint8_t* in) {
  b.d = get_half(in);
  for (int s = 0; s < 8; ++s) {
    uint16_t word = 0;
    memcpy(&word, in + 34 + 2 * s, sizeof word);
    for (int l = 0; l < 4; ++l) {
      b.index[4 * s + l] = static_cast<uint16_t>(in[2 + 4 * s + l] | (word >> (3 * l) & 7) << 8);
      b.signs[4 * s + l] = static_cast<uint8_t>(word >> 15);
    }
    b.scales[s] = word >> 12 & 7;
  }
}

/// A nibble for 8 values: three bits more of the index, the shift. A word for 64 values: four scale codes of three
/// bits, and four of the sixteen bits of d.
static inline void pack_iq1_m(uint8_t* out, const LatticeBlock& b) {
  for (int g = 0; g < 32; g += 2) {
    out[g] = static_cast<uint8_t>(b.index[g]);
    out[g + 1] = static_cast<uint8_t>(b.index[g + 1]);
    out[32 + g / 2] =
        static_cast<uint8_t>(b.index[g] >> 8 | b.signs[g] << 3 | b.index[g + 1] >> 8 << 4 | b.signs[g + 1] << 7);
  }
  const unsigned d = float_to_half(b.d);
  for (int w = 0; w < 4; ++w) {
    unsigned word = (d >> (4 * w) & 15) << 12;
    for (int j = 0; j < 4; ++j) word |= static_cast<unsigned>(b.scales[4 * w + j]) << (3 * j);
    const uint16_t stored = static_cast<uint16_t>(word);
    memcpy(out + 48 + 2 * w, &stored, sizeof stored);
  }
}
static inline void unpack_iq1_m(LatticeBlock& b, const uint8_t* in) {
  for (int g = 0; g < 32; ++g) {
    const int nibble = in[32 + g / 2] >> (4 * (g % 2)) & 15;
    b.index[g] = static_cast<uint16_t>(in[g] | (nibble & 7) << 8);
    b.signs[g] = static_cast<uint8_t>(nibble >> 3);
  }
  unsigned d = 0;
  for (int w = 0; w < 4; ++w) {
    uint16_t word = 0;
    memcpy(&word, in + 48 + 2 * w, sizeof word);
    for (int j = 0; j < 4; ++j) b.scales[4 * w + j] = word >> (3 * j) & 7;
    d |= static_cast<unsigned>(word) >> 12 << (4 * w);
  }
  b.d = half_to_float(static_cast<uint16_t>(d));
}

}  // namespace fettle::kit::block
