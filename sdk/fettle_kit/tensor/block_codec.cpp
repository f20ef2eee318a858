// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/block_codec.h"

#include "fettle_kit/tensor/block_layout.h"
#include "fettle_kit/tensor/block_search.h"
#include "fettle_kit/tensor/lattice_codec.h"

#include <algorithm>
#include <cmath>

namespace fettle::kit {
namespace {

using namespace block;
using Byte = std::uint8_t;

// ---- encode: one block, or one super-block of 256; q is the importance of its columns, or null
// -----------------------

float reciprocal(float d) { return d != 0 ? 1.0f / d : 0.0f; }

float sum_of_squares(std::int64_t n, const float* x) {
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

/// w[i] = q[i] * sqrt(sigma2 + x[i]^2): importance of the column, times how far the weight stands out.
void importance_weights(int n, const float* x, const float* q, float sigma2, float* w) {
  for (int i = 0; i < n; ++i) w[i] = q[i] * std::sqrt(sigma2 + x[i] * x[i]);
}

float signed_extreme(int n, const float* x) {
  float amax = 0, max = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > amax) {
      amax = std::fabs(x[i]);
      max = x[i];
    }
  }
  return max;
}
float abs_max(int n, const float* x) { return std::fabs(signed_extreme(n, x)); }

/// Q4_0 and Q5_0: the element of largest magnitude becomes code 0, that is -nmax.
template <int nmax>
void encode_q45_0(const float* x, const float* q, float sigma2, Byte* out) {
  Byte codes[32];
  float d = 0;
  if (q) {
    float w[32];
    importance_weights(32, x, q, sigma2, w);
    d = search_symmetric(32, nmax, x, w, codes);
  } else {
    d = signed_extreme(32, x) / static_cast<float>(-nmax);
    const float inverse = reciprocal(d);
    for (int i = 0; i < 32; ++i)
      codes[i] = static_cast<Byte>(
          std::min(2 * nmax - 1, static_cast<int>(x[i] * inverse + (static_cast<float>(nmax) + 0.5f))));
  }
  put_half(out, d);
  if (nmax == 16) pack_fifth_bits(out + 2, codes);
  pack_nibbles(out + (nmax == 16 ? 6 : 2), codes, 32);
}

/// Q4_1 and Q5_1: codes over the range from min to max.
template <int nmax>
void encode_q45_1(const float* x, const float* q, float sigma2, Byte* out) {
  Byte codes[32];
  float d = 0, min = 0;
  if (q) {
    float w[32];
    importance_weights(32, x, q, sigma2, w);
    const ScaleAndMin found = search_asymmetric(32, {nmax, -0.9f, 0.05f, 36, false}, x, w, codes);
    d = found.scale;
    min = -found.min;
  } else {
    min = *std::min_element(x, x + 32);
    d = (*std::max_element(x, x + 32) - min) / static_cast<float>(nmax);
    const float inverse = reciprocal(d);
    for (int i = 0; i < 32; ++i) {
      const auto code = static_cast<int>((x[i] - min) * inverse + 0.5f);
      codes[i] = static_cast<Byte>(nmax == 15 ? std::min(15, code) : code);
    }
  }
  put_half(out, d);
  put_half(out + 2, min);
  if (nmax == 31) pack_fifth_bits(out + 4, codes);
  pack_nibbles(out + (nmax == 31 ? 8 : 4), codes, 32);
}

void encode_q8_0(const float* x, Byte* out) {
  const float d = abs_max(32, x) / 127.0f;
  const float inverse = reciprocal(d);
  put_half(out, d);
  for (int i = 0; i < 32; ++i) out[2 + i] = static_cast<Byte>(static_cast<std::int8_t>(std::round(x[i] * inverse)));
}

void encode_q1_0(const float* x, Byte* out) {
  float sum = 0;
  for (int i = 0; i < 128; ++i) sum += std::fabs(x[i]);
  put_half(out, sum / 128.0f);
  for (int b = 0; b < 16; ++b) {
    out[2 + b] = 0;
    for (int i = 0; i < 8; ++i)
      if (x[8 * b + i] >= 0) out[2 + b] = static_cast<Byte>(out[2 + b] | 1 << i);
  }
}

/// x / amax rounded half away from zero, plus 1.
void trits_of(int n, const float* x, float d, Byte* trits) {
  const float inverse = reciprocal(d);
  for (int i = 0; i < n; ++i)
    trits[i] = static_cast<Byte>(std::clamp(static_cast<int>(std::round(x[i] * inverse)) + 1, 0, 3));
}

void encode_q2_0(const float* x, Byte* out) {
  Byte codes[64];
  const float d = abs_max(64, x);
  trits_of(64, x, d, codes);
  put_half(out, d);
  for (int b = 0; b < 16; ++b) {
    const Byte* c = codes + 4 * b;
    out[2 + b] = static_cast<Byte>(c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6);
  }
}

void encode_tq1_0(const float* x, Byte* out) {
  Byte trits[256];
  const float d = abs_max(256, x);
  trits_of(256, x, d, trits);
  pack_tq1_0(out, out + 48, trits);
  put_half(out + 52, d);
}

void encode_tq2_0(const float* x, Byte* out) {
  Byte trits[256];
  const float d = abs_max(256, x);
  trits_of(256, x, d, trits);
  pack_pairs(out, trits);
  put_half(out + 64, d);
}

/// The FP4 value nearest to x / scale, the lowest code on ties.
Byte nearest_fp4(float x, float scale) {
  Byte best = 0;
  float best_error = std::fabs(static_cast<float>(fp4_values[0]) * scale - x);
  for (Byte code = 1; code < 16; ++code) {
    const float error = std::fabs(static_cast<float>(fp4_values[code]) * scale - x);
    if (error < best_error) {
      best = code;
      best_error = error;
    }
  }
  return best;
}

void encode_mxfp4(const float* x, Byte* out) {
  const float amax = abs_max(32, x);
  // 2: the exponent of the largest FP4 value. log2 in f64, rounded to f32, is what a good log2f returns.
  const auto e = static_cast<Byte>(
      amax > 0 ? static_cast<int>(std::floor(static_cast<float>(std::log2(static_cast<double>(amax))))) - 2 + 127 : 0);
  Byte codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = nearest_fp4(x[i], e8m0_half(e));
  out[0] = e;
  pack_nibbles(out + 1, codes, 32);
}

void encode_nvfp4(const float* x, Byte* out) {
  for (int s = 0; s < 4; ++s) {
    const float* v = x + 16 * s;
    out[s] = to_ue4m3(abs_max(16, v) / 6.0f);
    Byte codes[16];
    for (int i = 0; i < 16; ++i) codes[i] = nearest_fp4(v[i], ue4m3_half(out[s]));
    pack_nibbles(out + 4 + 8 * s, codes, 16);
  }
}

/// Codes again, now that the scales are rounded: nearest of (x + min) / scale. Sub-blocks of scale 0 keep theirs.
void requantize(int n, const float* x, float scale, float min, int low, int high, Byte* codes) {
  if (scale == 0) return;
  for (int i = 0; i < n; ++i)
    codes[i] = static_cast<Byte>(std::clamp(nearest_int((x[i] + min) / scale), low, high) - low);
}

void encode_q2_k(const float* x, const float* q, Byte* out) {
  Byte codes[256], scale_codes[16], min_codes[16];
  float scales[16], mins[16], sum_w[16], w[16];
  const float sigma2 = q ? sum_of_squares(256, x) / 256.0f : 0.0f;
  for (int j = 0; j < 16; ++j) {
    const float* v = x + 16 * j;
    ScaleAndMin found;
    if (q) {
      importance_weights(16, v, q + 16 * j, sigma2, w);
      sum_w[j] = 0;
      for (const float wi : w) sum_w[j] += wi;
      found = search_asymmetric(16, {3, -0.9f, 0.05f, 36, false}, v, w, codes + 16 * j);
    } else {
      for (int i = 0; i < 16; ++i) w[i] = std::fabs(v[i]);
      found = search_asymmetric(16, {3, -0.5f, 0.1f, 15, true}, v, w, codes + 16 * j);
    }
    scales[j] = found.scale;
    mins[j] = found.min;
  }
  const auto code_positive = [&](const float* values, Byte* value_codes, Byte* d) {
    if (q) {
      put_half(d, search_positive(16, 15, values, sum_w, value_codes));
      return;
    }
    float max = 0;
    for (int j = 0; j < 16; ++j) max = std::max(max, values[j]);
    for (int j = 0; j < 16; ++j)
      value_codes[j] = max > 0 ? static_cast<Byte>(nearest_int(15.0f / max * values[j])) : Byte{0};
    put_half(d, max > 0 ? max / 15.0f : 0.0f);
  };
  code_positive(scales, scale_codes, out + 80);
  code_positive(mins, min_codes, out + 82);
  const float d = get_half(out + 80), dmin = get_half(out + 82);
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<Byte>(scale_codes[j] | min_codes[j] << 4);
    requantize(16, x + 16 * j, d * static_cast<float>(scale_codes[j]), dmin * static_cast<float>(min_codes[j]), 0, 3,
               codes + 16 * j);
  }
  pack_pairs(out + 16, codes);
}

void encode_q3_k(const float* x, const float* q, Byte* out) {
  Byte codes[256], scale_codes[16];
  float scales[16], sum_w[16], w[16];
  const float sigma2 = q ? 2 * sum_of_squares(256, x) / 256.0f : 0.0f;
  for (int j = 0; j < 16; ++j) {
    const float* v = x + 16 * j;
    if (q) {
      importance_weights(16, v, q + 16 * j, sigma2, w);
      sum_w[j] = 0;
      for (const float wi : w) sum_w[j] += wi;
      scales[j] = search_symmetric(16, 4, v, w, codes + 16 * j);
    } else {
      scales[j] = search_coordinate(16, 4, v, codes + 16 * j);
    }
  }
  if (q) {
    put_half(out + 108, search_symmetric(16, 32, scales, sum_w, scale_codes));
    pack_q3_k_scales(out + 96, scale_codes);
  } else if (const float max = signed_extreme(16, scales); max != 0) {
    const float inverse = -32.0f / max;
    for (int j = 0; j < 16; ++j)
      scale_codes[j] =
          static_cast<Byte>(std::clamp<int>(static_cast<std::int8_t>(nearest_int(inverse * scales[j])), -32, 31) + 32);
    put_half(out + 108, 1 / inverse);
    pack_q3_k_scales(out + 96, scale_codes);
  } else {
    std::fill_n(out + 96, 14, Byte{0});
    std::fill_n(scale_codes, 16, Byte{0});
  }
  const float d = get_half(out + 108);
  for (int j = 0; j < 16; ++j)
    requantize(16, x + 16 * j, d * static_cast<float>(scale_codes[j] - 32), 0, -4, 3, codes + 16 * j);
  pack_third_bits(out, codes);
  pack_pairs(out + 32, codes);
}

/// Q4_K (nmax 15) and Q5_K (31): eight sub-blocks of 32 with a scale and a min of 6 bits each.
template <int nmax>
void encode_q45_k(const float* x, const float* q, Byte* out) {
  Byte codes[256], scale_codes[8], min_codes[8];
  float scales[8], mins[8], sum_w[8], w[32];
  const float sigma2 = q ? 2 * sum_of_squares(256, x) / 256.0f : 0.0f;
  for (int j = 0; j < 8; ++j) {
    const float* v = x + 32 * j;
    ScaleAndMin found;
    if (q) {
      importance_weights(32, v, q + 32 * j, sigma2, w);
      sum_w[j] = 0;
      for (const float wi : w) sum_w[j] += wi;
      found = search_asymmetric(32, {nmax, -0.9f, 0.05f, 36, false}, v, w, codes + 32 * j);
    } else {
      const float average = std::sqrt(sum_of_squares(32, v) / 32.0f);
      for (int i = 0; i < 32; ++i) w[i] = average + std::fabs(v[i]);
      found = nmax == 15 ? search_asymmetric(32, {nmax, -1.0f, 0.1f, 20, false}, v, w, codes + 32 * j)
                         : search_asymmetric(32, {nmax, -0.5f, 0.1f, 15, false}, v, w, codes + 32 * j);
    }
    scales[j] = found.scale;
    mins[j] = found.min;
  }
  const auto code_positive = [&](const float* values, Byte* value_codes, Byte* d) {
    if (q) {
      put_half(d, search_positive(8, 63, values, sum_w, value_codes));
      return;
    }
    float max = 0;
    for (int j = 0; j < 8; ++j) max = std::max(max, values[j]);
    const float inverse = max > 0 ? 63.0f / max : 0.0f;
    for (int j = 0; j < 8; ++j)
      value_codes[j] = std::min(Byte{63}, static_cast<Byte>(nearest_int(inverse * values[j])));
    put_half(d, max / 63.0f);
  };
  code_positive(scales, scale_codes, out);
  code_positive(mins, min_codes, out + 2);
  const float d = get_half(out), dmin = get_half(out + 2);
  pack_q4_k_scales(out + 4, scale_codes, min_codes);
  for (int j = 0; j < 8; ++j)
    requantize(32, x + 32 * j, d * static_cast<float>(scale_codes[j]), dmin * static_cast<float>(min_codes[j]), 0, nmax,
               codes + 32 * j);
  if (nmax == 31) pack_q5_k_high(out + 16, codes);
  pack_q4_k_codes(out + (nmax == 31 ? 48 : 16), codes);
}

void encode_q6_k(const float* x, const float* q, Byte* out) {
  Byte codes[256];
  float scales[16];
  for (int j = 0; j < 16; ++j)
    scales[j] = search_symmetric(16, 32, x + 16 * j, q ? q + 16 * j : nullptr, codes + 16 * j);
  const float max = signed_extreme(16, scales);
  if (std::fabs(max) < negligible) {
    std::fill_n(out, 210, Byte{0});
    return;
  }
  const float inverse = -128.0f / max;
  put_half(out + 208, 1 / inverse);
  const float d = get_half(out + 208);
  for (int j = 0; j < 16; ++j) {
    const int code = std::min(127, nearest_int(inverse * scales[j]));
    out[192 + j] = static_cast<Byte>(code);
    requantize(16, x + 16 * j, d * static_cast<float>(static_cast<std::int8_t>(code)), 0, -32, 31, codes + 16 * j);
  }
  pack_q6_k_codes(out, out + 128, codes);
}

/// Weights of an IQ4 super-block of n values.
void iq4_weights(int n, const float* x, const float* q, float* w) {
  if (q) {
    importance_weights(n, x, q, sum_of_squares(n, x) * (2.0f / static_cast<float>(n)), w);
  } else {
    for (int i = 0; i < n; ++i) w[i] = x[i] * x[i];
  }
}

void encode_iq4_nl(const float* x, const float* q, Byte* out) {
  float w[32];
  Byte codes[32];
  iq4_weights(32, x, q, w);
  const float scale = search_iq4(32, x, w);
  const float inverse = reciprocal(scale);
  for (int i = 0; i < 32; ++i) codes[i] = nearest_iq4(inverse * x[i]);
  put_half(out, scale);
  pack_nibbles(out + 2, codes, 32);
}

void encode_iq4_xs(const float* x, const float* q, Byte* out) {
  float w[256], scales[8];
  Byte codes[32], scale_codes[8];
  iq4_weights(256, x, q, w);
  for (int b = 0; b < 8; ++b) scales[b] = search_iq4(32, x + 32 * b, w + 32 * b);
  const float d = -signed_extreme(8, scales) / 32.0f;
  const float inverse = reciprocal(d);
  put_half(out, d);
  for (int b = 0; b < 8; ++b) {
    const int l = std::clamp(nearest_int(inverse * scales[b]), -32, 31);
    scale_codes[b] = static_cast<Byte>(l + 32);
    const float inverse_scale = reciprocal(d * static_cast<float>(l));  // of the unrounded d, as the reference
    for (int i = 0; i < 32; ++i) codes[i] = nearest_iq4(inverse_scale * x[32 * b + i]);
    pack_nibbles(out + 8 + 16 * b, codes, 32);
  }
  pack_iq4_xs_scales(out + 2, out + 4, scale_codes);
}

void encode(DType type, const float* x, const float* q, float row_sigma2, Byte* out) {
  using enum DType;
  switch (type) {
    case q4_0:
      return encode_q45_0<8>(x, q, row_sigma2, out);
    case q5_0:
      return encode_q45_0<16>(x, q, row_sigma2, out);
    case q4_1:
      return encode_q45_1<15>(x, q, row_sigma2, out);
    case q5_1:
      return encode_q45_1<31>(x, q, row_sigma2, out);
    case q8_0:
      return encode_q8_0(x, out);
    case q1_0:
      return encode_q1_0(x, out);
    case q2_0:
      return encode_q2_0(x, out);
    case tq1_0:
      return encode_tq1_0(x, out);
    case tq2_0:
      return encode_tq2_0(x, out);
    case mxfp4:
      return encode_mxfp4(x, out);
    case nvfp4:
      return encode_nvfp4(x, out);
    case q2_k:
      return encode_q2_k(x, q, out);
    case q3_k:
      return encode_q3_k(x, q, out);
    case q4_k:
      return encode_q45_k<15>(x, q, out);
    case q5_k:
      return encode_q45_k<31>(x, q, out);
    case q6_k:
      return encode_q6_k(x, q, out);
    case iq4_nl:
      return encode_iq4_nl(x, q, out);
    case iq4_xs:
      return encode_iq4_xs(x, q, out);
    case iq2_xxs:
    case iq2_xs:
    case iq2_s:
    case iq3_xxs:
    case iq3_s:
    case iq1_s:
    case iq1_m:
      return encode_lattice(type, x, q, out);
    default:
      return;
  }
}

// ---- decode: one block
// ------------------------------------------------------------------------------------------------

/// y[i] = scale * (codes[i] - zero)
void scaled(int n, float scale, int zero, const Byte* codes, float* y) {
  for (int i = 0; i < n; ++i) y[i] = scale * static_cast<float>(codes[i] - zero);
}
/// y[i] = scale * codes[i] - min
void scaled_minus(int n, float scale, float min, const Byte* codes, float* y) {
  for (int i = 0; i < n; ++i) y[i] = scale * static_cast<float>(codes[i]) - min;
}
/// y[i] = scale * values[codes[i]]
void looked_up(int n, float scale, const std::int8_t* values, const Byte* codes, float* y) {
  for (int i = 0; i < n; ++i) y[i] = scale * static_cast<float>(values[codes[i]]);
}

void decode(DType type, const Byte* in, float* y) {
  using enum DType;
  Byte codes[256], scales[16], mins[16];
  switch (type) {
    case q4_0:
      unpack_nibbles(codes, in + 2, 32);
      return scaled(32, get_half(in), 8, codes, y);
    case q5_0:
      unpack_nibbles(codes, in + 6, 32);
      unpack_fifth_bits(codes, in + 2);
      return scaled(32, get_half(in), 16, codes, y);
    case q4_1:
      unpack_nibbles(codes, in + 4, 32);
      return scaled_minus(32, get_half(in), -get_half(in + 2), codes, y);
    case q5_1:
      unpack_nibbles(codes, in + 8, 32);
      unpack_fifth_bits(codes, in + 4);
      return scaled_minus(32, get_half(in), -get_half(in + 2), codes, y);
    case q8_0:
      for (int i = 0; i < 32; ++i) y[i] = get_half(in) * static_cast<float>(static_cast<std::int8_t>(in[2 + i]));
      return;
    case q1_0:
      for (int i = 0; i < 128; ++i) y[i] = (in[2 + i / 8] >> i % 8 & 1) != 0 ? get_half(in) : -get_half(in);
      return;
    case q2_0:
      for (int i = 0; i < 64; ++i) codes[i] = in[2 + i / 4] >> 2 * (i % 4) & 3;
      return scaled(64, get_half(in), 1, codes, y);
    case tq1_0:
      unpack_tq1_0(codes, in, in + 48);
      return scaled(256, get_half(in + 52), 1, codes, y);
    case tq2_0:
      unpack_pairs(codes, in);
      return scaled(256, get_half(in + 64), 1, codes, y);
    case mxfp4:
      unpack_nibbles(codes, in + 1, 32);
      return looked_up(32, e8m0_half(in[0]), fp4_values, codes, y);
    case nvfp4:
      for (int s = 0; s < 4; ++s) {
        unpack_nibbles(codes, in + 4 + 8 * s, 16);
        looked_up(16, ue4m3_half(in[s]), fp4_values, codes, y + 16 * s);
      }
      return;
    case q2_k: {
      unpack_pairs(codes, in + 16);
      const float d = get_half(in + 80), dmin = get_half(in + 82);
      for (int j = 0; j < 16; ++j)
        scaled_minus(16, d * static_cast<float>(in[j] & 15), dmin * static_cast<float>(in[j] >> 4), codes + 16 * j,
                     y + 16 * j);
      return;
    }
    case q3_k: {
      unpack_pairs(codes, in + 32);
      unpack_third_bits(codes, in);
      unpack_q3_k_scales(scales, in + 96);
      const float d = get_half(in + 108);
      for (int j = 0; j < 16; ++j) scaled(16, d * static_cast<float>(scales[j] - 32), 4, codes + 16 * j, y + 16 * j);
      return;
    }
    case q4_k:
    case q5_k: {
      unpack_q4_k_codes(codes, in + (type == q5_k ? 48 : 16));
      if (type == q5_k) unpack_q5_k_high(codes, in + 16);
      unpack_q4_k_scales(scales, mins, in + 4);
      const float d = get_half(in), dmin = get_half(in + 2);
      for (int j = 0; j < 8; ++j)
        scaled_minus(32, d * static_cast<float>(scales[j]), dmin * static_cast<float>(mins[j]), codes + 32 * j,
                     y + 32 * j);
      return;
    }
    case q6_k: {
      unpack_q6_k_codes(codes, in, in + 128);
      const float d = get_half(in + 208);
      for (int j = 0; j < 16; ++j)
        scaled(16, d * static_cast<float>(static_cast<std::int8_t>(in[192 + j])), 32, codes + 16 * j, y + 16 * j);
      return;
    }
    case iq4_nl:
      unpack_nibbles(codes, in + 2, 32);
      return looked_up(32, get_half(in), iq4_values, codes, y);
    case iq4_xs: {
      unpack_iq4_xs_scales(scales, in + 2, in + 4);
      const float d = get_half(in);
      for (int b = 0; b < 8; ++b) {
        unpack_nibbles(codes, in + 8 + 16 * b, 32);
        looked_up(32, d * static_cast<float>(scales[b] - 32), iq4_values, codes, y + 32 * b);
      }
      return;
    }
    case iq2_xxs:
    case iq2_xs:
    case iq2_s:
    case iq3_xxs:
    case iq3_s:
    case iq1_s:
    case iq1_m:
      return decode_lattice(type, in, y);
    default:
      return;
  }
}

}  // namespace

bool has_block_codec(DType type) { return info(type).block_elems > 1; }

bool needs_importance(DType type) { return lattice_needs_importance(type); }

void encode_blocks_reference(DType type, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
                             const float* importance) {
  const DTypeInfo& d = info(type);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * cols;
    const float sigma2 = importance ? sum_of_squares(cols, row) / static_cast<float>(cols) : 0.0f;
    for (std::int64_t c = 0; c < cols; c += d.block_elems) {
      encode(type, row + c, importance ? importance + c : nullptr, sigma2, reinterpret_cast<Byte*>(out));
      out += d.block_bytes;
    }
  }
}

void decode_blocks(DType type, const std::byte* blocks, float* out, std::size_t n) {
  const DTypeInfo& d = info(type);
  const auto elems = static_cast<std::size_t>(d.block_elems);
  for (std::size_t i = 0; i < n; i += elems) {
    decode(type, reinterpret_cast<const Byte*>(blocks), out + i);
    blocks += d.block_bytes;
  }
}

}  // namespace fettle::kit
