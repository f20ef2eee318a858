// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX-512: nothing but intrinsics and our own headers without code may be included here.
#include "fettle_kit/kernels/kernel_table.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

using std::ptrdiff_t;

constexpr ptrdiff_t kLanes = 16;
using V = __m512;
inline V broadcast(float x) { return _mm512_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V load(const float* p, ptrdiff_t n) {
  return n >= kLanes ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << n) - 1), p);
}
inline void store(float* p, ptrdiff_t n, V x) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(n >= kLanes ? 0xffff : (1 << n) - 1), x);
}
inline void transpose(float* y, ptrdiff_t y_stride, const float* x, ptrdiff_t x_stride, ptrdiff_t rows,
                      ptrdiff_t cols) {
  avx512_kernels.transpose(y, y_stride, x, x_stride, rows, cols);
}
#define FETTLE_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

#include "fettle_kit/kernels/bf16_rows.inl"

}  // namespace

const Bf16Kernels avx512_bf16 = {.tile_rows = kRows,
                                 .tile_cols = kLanes,
                                 .element_bytes = sizeof(float),
                                 .block_depth = 2048,
                                 .task_x_bytes = 1 << 20,
                                 .pack_x = pack<kRows>,
                                 .pack_w = pack<kLanes>,
                                 .multiply = multiply};

}  // namespace fettle::kit
