// SPDX-License-Identifier: Apache-2.0
// What the bf16 products mean, one element at a time. The oracle of the vector versions, and of AMX.
#include "fettle_kit/kernels/kernel_table.h"

#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace fettle::kit {
namespace {

using std::ptrdiff_t;

constexpr float kSmallestNormal = std::numeric_limits<float>::min();
/// Panels are f32 numbers, element k of row i at [k * kRows + i].
constexpr ptrdiff_t kRows = 4;

/// Flush to zero: subnormals become zeros of their sign.
float flush(float x) { return std::fabs(x) < kSmallestNormal ? std::copysign(0.0f, x) : x; }

/// flush(a * b + c). The hardware asks whether the sum is subnormal after rounding it to 24 bits of any exponent; a sum
/// just below 2^-126 rounds up to it when rounded as a subnormal, but is one all the same.
float fma_flushed(float a, float b, float c) {
  const float sum = std::fma(a, b, c);
  if (std::fabs(sum) != kSmallestNormal) return flush(sum);
  if (std::fabs(a) > std::fabs(b)) std::swap(a, b);
  const float larger = std::fma(a * 0x1p64f, b, c * 0x1p64f);  // a and c are far from 2^63: the sum is 2^-126
  return std::fabs(larger) < kSmallestNormal * 0x1p64f ? std::copysign(0.0f, sum) : sum;
}

float rounded(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t code = std::isnan(x) ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1);
  return std::bit_cast<float>(code & 0xffff0000u);
}

float element(Bf16Source from, ptrdiff_t i, ptrdiff_t k) {
  const ptrdiff_t at = from.by_depth ? k * from.stride + i : i * from.stride + k;
  if (!from.stored) return rounded(static_cast<const float*>(from.data)[at]);
  return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(from.data)[at]) << 16);
}

void pack(void* to, Bf16Source from, ptrdiff_t rows, ptrdiff_t depth) {
  const ptrdiff_t padded = (depth + kBf16Slice - 1) / kBf16Slice * kBf16Slice;
  auto* out = static_cast<float*>(to);
  for (ptrdiff_t i0 = 0; i0 < rows; i0 += kRows)
    for (ptrdiff_t k = 0; k < padded; ++k)
      for (ptrdiff_t i = i0; i < i0 + kRows; ++i) *out++ = i < rows && k < depth ? flush(element(from, i, k)) : 0.0f;
}

void multiply(float* y, ptrdiff_t y_stride, const void* x, const void* w, ptrdiff_t rows, ptrdiff_t cols,
              ptrdiff_t depth, bool accumulate) {
  const ptrdiff_t padded = (depth + kBf16Slice - 1) / kBf16Slice * kBf16Slice;
  for (ptrdiff_t i = 0; i < rows; ++i) {
    for (ptrdiff_t j = 0; j < cols; ++j) {
      const float* a = static_cast<const float*>(x) + i / kRows * kRows * padded + i % kRows;
      const float* b = static_cast<const float*>(w) + j / kRows * kRows * padded + j % kRows;
      float sum = accumulate ? flush(y[i * y_stride + j]) : 0.0f;
      for (ptrdiff_t k = 0; k < padded; k += kBf16Slice) {
        float even = 0, odd = 0;
        for (ptrdiff_t d = k; d < k + kBf16Slice; d += 2) {
          even = fma_flushed(a[d * kRows], b[d * kRows], even);
          odd = fma_flushed(a[(d + 1) * kRows], b[(d + 1) * kRows], odd);
        }
        sum = flush(sum + flush(even + odd));
      }
      y[i * y_stride + j] = sum;
    }
  }
}

}  // namespace

const Bf16Kernels scalar_bf16 = {.tile_rows = kRows,
                                 .tile_cols = kRows,
                                 .element_bytes = sizeof(float),
                                 .block_depth = 2048,
                                 .task_x_bytes = 1 << 20,
                                 .pack_x = pack,
                                 .pack_w = pack,
                                 .multiply = multiply};

}  // namespace fettle::kit
