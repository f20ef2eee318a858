// SPDX-License-Identifier: Apache-2.0
// What every kernel means, one element at a time. Always built; the oracle of the vector versions.
#include "fettle_kit/kernels/kernel_table.h"
#include "fettle_kit/kernels/polynomials.h"

#include <bit>
#include <cmath>
#include <limits>

namespace fettle::kit {
namespace {

using std::ptrdiff_t;
using std::size_t;

constexpr size_t kLanes = 16;
constexpr float kInf = std::numeric_limits<float>::infinity();

float add_lanes(float (&lane)[kLanes]) {
  for (size_t half = kLanes / 2; half > 0; half /= 2)
    for (size_t j = 0; j < half; ++j) lane[j] = lane[j] + lane[j + half];
  return lane[0];
}

/// Elements beyond the row are zero, in every lane of the last vector.
float dot(const float* a, const float* b, size_t n) {
  float lane[kLanes] = {};
  for (size_t i = 0; i < n; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lane[j] = i + j < n ? std::fma(a[i + j], b[i + j], lane[j]) : lane[j] + 0.0f;
  return add_lanes(lane);
}

float sum_squares(const float* x, size_t n) { return dot(x, x, n); }

float larger(float a, float b) { return a > b ? a : b; }

float max(const float* x, size_t n) {
  float lane[kLanes];
  for (float& l : lane) l = -kInf;
  for (size_t i = 0; i < n; ++i) lane[i % kLanes] = larger(x[i], lane[i % kLanes]);
  for (size_t half = kLanes / 2; half > 0; half /= 2)
    for (size_t j = 0; j < half; ++j) lane[j] = larger(lane[j], lane[j + half]);
  return lane[0];
}

size_t arg_max(const float* x, size_t n) {
  float best = -kInf;
  size_t at = 0;
  for (size_t i = 0; i < n; ++i) {
    if (x[i] > best) best = x[i], at = i;
  }
  return at;
}

void axpy(float* y, float a, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = std::fma(a, x[i], y[i]);
}
void scale(float* y, float a, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = a * x[i];
}
void add(float* y, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}
void mul(float* y, const float* a, const float* b, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = a[i] * b[i];
}
void scale_mul(float* y, float a, const float* x, const float* w, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = a * x[i] * w[i];
}

void scale_mul_add(float* y, float a, const float* x, const float* w, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = y[i] + a * x[i] * w[i];
}

void adamw(float* w, float* m, float* v, const float* g, const AdamwFactors& f, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float scaled = g[i] * f.scale;
    m[i] = f.beta1 * m[i] + f.rest1 * scaled;
    v[i] = f.beta2 * v[i] + f.rest2 * (scaled * scaled);
    w[i] = f.keep * w[i] - f.rate * m[i] / (std::sqrt(v[i] * f.root) + f.epsilon);
  }
}

/// 2^n for -126 <= n <= 127, from n in the low bits.
float power_of_two(std::uint32_t n) { return std::bit_cast<float>((n + 127u) << 23); }

float exp_of(float x) {
  if (x < kExpMin) return 0.0f;
  x = x > kExpMax ? kExpMax : x;
  const float shifted = std::fma(x, kLog2E, kRoundMagic);
  const float n = shifted - kRoundMagic;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = kExp[5];
  for (int i = 4; i >= 0; --i) p = std::fma(p, r, kExp[i]);
  p = std::fma(r * r, p, r) + 1.0f;
  // 2^n in two factors, so that neither leaves the normal range and a subnormal result is rounded once.
  const std::uint32_t whole = std::bit_cast<std::uint32_t>(shifted) - kRoundMagicBits;
  const auto half = static_cast<std::uint32_t>(static_cast<std::int32_t>(whole) >> 1);
  return p * power_of_two(half) * power_of_two(whole - half);
}

float tanh_of(float x) {
  const float magnitude = std::fabs(x);
  const float z = x * x;
  float p = kTanh[5];
  for (int i = 4; i >= 0; --i) p = std::fma(p, z, kTanh[i]);
  const float small = std::fma(x * z, p, x);
  const float large = 1.0f - 2.0f / (exp_of(magnitude + magnitude) + 1.0f);
  return magnitude < kTanhSmall ? small : std::copysign(large, x);
}

float sigmoid_of(float x) {
  const float e = exp_of(-std::fabs(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

float silu_of(float x) { return x * sigmoid_of(x); }
float gelu_tanh_of(float x) { return x * sigmoid_of(x * std::fma(kGelu3, x * x, kGelu1)); }

template <float (*function)(float)>
void each(float* y, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = function(x[i]);
}
template <float (*function)(float)>
void each_mul(float* y, const float* gate, const float* up, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = function(gate[i]) * up[i];
}

struct SiluSlope {
  static float inner(float x) { return x; }
  static float inner_slope(float) { return 1.0f; }
};
struct GeluSlope {
  static float inner(float x) { return x * std::fma(kGelu3, x * x, kGelu1); }
  static float inner_slope(float x) { return std::fma(3.0f * kGelu3, x * x, kGelu1); }
};
template <class Function>
void mul_gradient(float* dgate, float* dup, const float* dy, const float* gate, const float* up, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float x = gate[i], d = dy[i], s = sigmoid_of(Function::inner(x)), value = x * s;
    const float slope = s + value * (1.0f - s) * Function::inner_slope(x);
    dgate[i] = d * up[i] * slope;
    dup[i] = d * value;
  }
}

float exp_sum(float* y, const float* x, float shift, size_t n) {
  float lane[kLanes] = {};
  for (size_t i = 0; i < n; ++i) {
    y[i] = exp_of(x[i] - shift);
    lane[i % kLanes] = lane[i % kLanes] + y[i];
  }
  return add_lanes(lane);
}

void rotate(float* x, const float* cos, const float* sin, size_t pairs) {
  for (size_t i = 0; i < pairs; ++i) {
    const float a = x[i], b = x[i + pairs];
    x[i] = a * cos[i] - b * sin[i];
    x[i + pairs] = b * cos[i] + a * sin[i];
  }
}

void bf16_to_f32(float* y, const std::uint16_t* x, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] = std::bit_cast<float>(static_cast<std::uint32_t>(x[i]) << 16);
}

void f32_to_bf16(std::uint16_t* y, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(x[i]);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    y[i] = static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
  }
}

void f16_to_f32(float* y, const std::uint16_t* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const std::uint32_t sign = (x[i] & 0x8000u) << 16, code = x[i] & 0x7fffu;
    const float subnormal = static_cast<float>(code) * 0x1p-24f;
    const std::uint32_t magnitude = code < 0x400u    ? std::bit_cast<std::uint32_t>(subnormal)
                                    : code < 0x7c00u ? (code << 13) + (112u << 23)
                                                     : (code << 13) + (224u << 23);
    y[i] = std::bit_cast<float>(sign | magnitude);
  }
}

void f32_to_f16(std::uint16_t* y, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(x[i]);
    const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    std::uint32_t code;
    if (magnitude > 0x7f800000u) {
      code = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    } else if (magnitude >= 0x47800000u) {  // 65536 and up
      code = 0x7c00u;
    } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 1/2 rounds to multiples of 2^-24
      code = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    } else {
      code = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1)) >> 13;
    }
    y[i] = static_cast<std::uint16_t>(sign | code);
  }
}

void tile(float* y, ptrdiff_t y_stride, const float* a, const float* b, ptrdiff_t b_stride, ptrdiff_t depth,
          ptrdiff_t rows, ptrdiff_t cols, bool accumulate) {
  for (ptrdiff_t i = 0; i < rows; ++i) {
    for (ptrdiff_t j = 0; j < cols; ++j) {
      float sum = accumulate ? y[i * y_stride + j] : 0.0f;
      for (ptrdiff_t k = 0; k < depth; ++k) sum = std::fma(a[i * kPackedStride + k], b[k * b_stride + j], sum);
      y[i * y_stride + j] = sum;
    }
  }
}

void transpose(float* y, ptrdiff_t y_stride, const float* x, ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t cols) {
  for (ptrdiff_t i = 0; i < rows; ++i)
    for (ptrdiff_t j = 0; j < cols; ++j) y[j * y_stride + i] = x[i * x_stride + j];
}

float f16_number(std::uint16_t x) {
  float y;
  f16_to_f32(&y, &x, 1);
  return y;
}

// Element k of a row as it is stored.
struct F32Rows {
  using Element = float;
  static float at(const float* row, ptrdiff_t k) { return row[k]; }
};
struct Bf16Rows {
  using Element = std::uint16_t;
  static float at(const std::uint16_t* row, ptrdiff_t k) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(row[k]) << 16);
  }
};
struct F16Rows {
  using Element = std::uint16_t;
  static float at(const std::uint16_t* row, ptrdiff_t k) { return f16_number(row[k]); }
};
struct Q8Rows {
  using Element = std::uint8_t;
  static float at(const std::uint8_t* row, ptrdiff_t k) {
    const std::uint8_t* block = row + k / 32 * 34;
    const float scale = f16_number(static_cast<std::uint16_t>(block[0] | block[1] << 8));
    return scale * static_cast<float>(static_cast<std::int8_t>(block[2 + k % 32]));
  }
};

template <class Rows>
void thin(float* y, ptrdiff_t y_stride, const float* x, ptrdiff_t x_rows, const typename Rows::Element* w,
          ptrdiff_t w_stride, ptrdiff_t w_rows, ptrdiff_t depth, bool accumulate, const void*) {
  for (ptrdiff_t i = 0; i < x_rows; ++i) {
    for (ptrdiff_t j = 0; j < w_rows; ++j) {
      float sum = accumulate ? y[i * y_stride + j] : 0.0f;
      for (ptrdiff_t k = 0; k < depth; ++k) sum = std::fma(x[k * x_rows + i], Rows::at(w + j * w_stride, k), sum);
      y[i * y_stride + j] = sum;
    }
  }
}

}  // namespace

const KernelTable scalar_kernels = {
    .name = "scalar",
    .vectors = Vectors::none,
    .dot = dot,
    .sum_squares = sum_squares,
    .max = max,
    .arg_max = arg_max,
    .axpy = axpy,
    .scale = scale,
    .add = add,
    .mul = mul,
    .scale_mul = scale_mul,
    .scale_mul_add = scale_mul_add,
    .adamw = adamw,
    .exp = each<exp_of>,
    .tanh = each<tanh_of>,
    .sigmoid = each<sigmoid_of>,
    .silu = each<silu_of>,
    .gelu_tanh = each<gelu_tanh_of>,
    .silu_mul = each_mul<silu_of>,
    .gelu_mul = each_mul<gelu_tanh_of>,
    .silu_mul_gradient = mul_gradient<SiluSlope>,
    .gelu_mul_gradient = mul_gradient<GeluSlope>,
    .exp_sum = exp_sum,
    .rotate = rotate,
    .bf16_to_f32 = bf16_to_f32,
    .f32_to_bf16 = f32_to_bf16,
    .f16_to_f32 = f16_to_f32,
    .f32_to_f16 = f32_to_f16,
    .tile_rows = 4,
    .tile_cols = 16,
    .tile = tile,
    .transpose = transpose,
    .thin_f32 = thin<F32Rows>,
    .thin_bf16 = thin<Bf16Rows>,
    .thin_f16 = thin<F16Rows>,
    .thin_q8_0 = thin<Q8Rows>,
    .bf16 = &scalar_bf16,
};

}  // namespace fettle::kit
