// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX2: nothing but intrinsics and our own headers without code may be included here.
#include "fettle_kit/kernels/kernel_table.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

using std::ptrdiff_t;

constexpr ptrdiff_t kLanes = 8;
using V = __m256;
inline V broadcast(float x) { return _mm256_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
/// The first n of 8 lanes, for n > 0.
inline __m256i first(ptrdiff_t n) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n > 8 ? 8 : n)), index);
}
inline V load(const float* p, ptrdiff_t n) {
  return n >= kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first(n));
}
inline void store(float* p, ptrdiff_t n, V x) { _mm256_maskstore_ps(p, first(n), x); }
inline void transpose(float* y, ptrdiff_t y_stride, const float* x, ptrdiff_t x_stride, ptrdiff_t rows,
                      ptrdiff_t cols) {
  avx2_kernels.transpose(y, y_stride, x, x_stride, rows, cols);
}
#define FETTLE_ROWS(X) X(0) X(1) X(2) X(3)

#include "fettle_kit/kernels/bf16_rows.inl"

}  // namespace

const Bf16Kernels avx2_bf16 = {.tile_rows = kRows,
                               .tile_cols = kLanes,
                               .element_bytes = sizeof(float),
                               .block_depth = 2048,
                               .task_x_bytes = 1 << 20,
                               .pack_x = pack<kRows>,
                               .pack_w = pack<kLanes>,
                               .multiply = multiply};

}  // namespace fettle::kit
