// SPDX-License-Identifier: Apache-2.0
// bf16 products by the dot product instruction. Compiled for AVX-512 with BF16: nothing but intrinsics and our own
// headers without code may be included here.
//
// vdpbf16ps adds the product of the high halves of two words to a sum, rounds, adds that of the low halves, and rounds;
// it takes subnormals for zeros whatever the control word says. Where both halves belong to the same chain of a slice,
// eight words are the whole chain, in its order: the bits of the tile instruction at twice the rate of f32
// multiply-adds. Both operands are packed by depth: a row of a tile is one word of 16 rows of x, or columns of w.
#include "fettle_kit/kernels/kernel_table.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

using std::ptrdiff_t;

#include "fettle_kit/kernels/transpose_avx512.inl"

/// Words 0 to 7 are the even chain of a slice, words 8 to 15 the odd one. The high half comes first.
struct Pairs {
  static constexpr ptrdiff_t low(ptrdiff_t word) { return 4 * (word % 8) + word / 8 + 2; }
  static constexpr ptrdiff_t high(ptrdiff_t word) { return 4 * (word % 8) + word / 8; }
  static __m512i paired(__m512i x) {
    const __m512i order = _mm512_set_epi16(29, 31, 25, 27, 21, 23, 17, 19, 13, 15, 9, 11, 5, 7, 1, 3,  //
                                           28, 30, 24, 26, 20, 22, 16, 18, 12, 14, 8, 10, 4, 6, 0, 2);
    return _mm512_permutexvar_epi16(order, x);
  }
};

#include "fettle_kit/kernels/bf16_words.inl"

constexpr ptrdiff_t kRows = 8;             // of x at a time: 16 chains side by side
constexpr ptrdiff_t kBlockSlices = 8;      // of x and w at a time, which fit into the first-level cache together
constexpr ptrdiff_t kChainBytes = 8 * 64;  // of a tile

#define FETTLE_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/// sum = sum + (even + odd)
inline void add(float* sum, const float* even, __m512 odd) {
  _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), _mm512_add_ps(_mm512_load_ps(even), odd)));
}

/// Adds some slices to 8 rows of 32 sums. x starts at one of 8 rows of a tile.
void add_slices(float* sums, const char* x, const char* w, ptrdiff_t slices) {
  for (ptrdiff_t s = 0; s < slices; ++s, x += kSliceBytes, w += kSliceBytes) {
    alignas(64) float even[kRows][kPanel];
#define FETTLE_ZERO(i) __m512 s##i = _mm512_setzero_ps(), t##i = s##i;
#define FETTLE_STEP(i)                                                                   \
  {                                                                                      \
    const auto xi = reinterpret_cast<__m512bh>(_mm512_set1_epi32(words[16 * word + i])); \
    s##i = _mm512_dpbf16_ps(s##i, xi, w0);                                               \
    t##i = _mm512_dpbf16_ps(t##i, xi, w1);                                               \
  }
#define FETTLE_KEEP(i) _mm512_store_ps(even[i], s##i), _mm512_store_ps(even[i] + 16, t##i);
#define FETTLE_ADD(i) add(sums + i * kPanel, even[i], s##i), add(sums + i * kPanel + 16, even[i] + 16, t##i);
#define FETTLE_CHAIN                                                                                 \
  FETTLE_ROWS(FETTLE_ZERO)                                                                           \
  for (ptrdiff_t word = 0; word < 8; ++word) {                                                       \
    const auto w0 = reinterpret_cast<__m512bh>(_mm512_load_si512(columns + 64 * word));              \
    const auto w1 = reinterpret_cast<__m512bh>(_mm512_load_si512(columns + 64 * word + kTileBytes)); \
    FETTLE_ROWS(FETTLE_STEP)                                                                         \
  }
    {
      const int* words = reinterpret_cast<const int*>(x);
      const char* columns = w;
      FETTLE_CHAIN
      FETTLE_ROWS(FETTLE_KEEP)
    }
    {
      const int* words = reinterpret_cast<const int*>(x + kChainBytes);
      const char* columns = w + kChainBytes;
      FETTLE_CHAIN
      FETTLE_ROWS(FETTLE_ADD)
    }
  }
#undef FETTLE_CHAIN
#undef FETTLE_ADD
#undef FETTLE_KEEP
#undef FETTLE_STEP
#undef FETTLE_ZERO
}

/// A panel of x against one of w.
void multiply_panels(float* y, ptrdiff_t y_stride, const char* x, const char* w, ptrdiff_t slices, ptrdiff_t rows,
                     ptrdiff_t cols, bool accumulate) {
  const __mmask16 left = first16(cols), right = first16(cols - 16);
  alignas(64) float sums[kPanel][kPanel];
  for (ptrdiff_t i = 0; i < kPanel; ++i) {
    const bool given = accumulate && i < rows;
    _mm512_store_ps(sums[i], given ? _mm512_maskz_loadu_ps(left, y + i * y_stride) : _mm512_setzero_ps());
    _mm512_store_ps(sums[i] + 16, given ? _mm512_maskz_loadu_ps(right, y + i * y_stride + 16) : _mm512_setzero_ps());
  }
  for (ptrdiff_t s = 0; s < slices; s += kBlockSlices) {
    const ptrdiff_t count = slices - s < kBlockSlices ? slices - s : kBlockSlices, at = s * kSliceBytes;
    for (ptrdiff_t i = 0; i < kPanel && i < rows; i += kRows)
      add_slices(sums[i], x + at + i / 16 * kTileBytes + i % 16 * 4, w + at, count);
  }
  for (ptrdiff_t i = 0; i < kPanel && i < rows; ++i) {
    _mm512_mask_storeu_ps(y + i * y_stride, left, _mm512_load_ps(sums[i]));
    _mm512_mask_storeu_ps(y + i * y_stride + 16, right, _mm512_load_ps(sums[i] + 16));
  }
}

void multiply(float* y, ptrdiff_t y_stride, const void* x, const void* w, ptrdiff_t rows, ptrdiff_t cols,
              ptrdiff_t depth, bool accumulate) {
  constexpr unsigned kFlush = 0x8040, kNearest = 0x1f80;  // all exceptions masked, rounding to nearest
  const unsigned before = _mm_getcsr();
  _mm_setcsr(kNearest | kFlush);
  asm volatile("" ::: "memory");
  const ptrdiff_t slices = (depth + kBf16Slice - 1) / kBf16Slice, panel_bytes = slices * kSliceBytes;
  for (ptrdiff_t i = 0; i < rows; i += kPanel)
    for (ptrdiff_t j = 0; j < cols; j += kPanel)
      multiply_panels(y + i * y_stride + j, y_stride, static_cast<const char*>(x) + i / kPanel * panel_bytes,
                      static_cast<const char*>(w) + j / kPanel * panel_bytes, slices, rows - i, cols - j, accumulate);
  asm volatile("" ::: "memory");
  _mm_setcsr(before);
}

}  // namespace

const Bf16Kernels dot_bf16 = {.tile_rows = kPanel,
                              .tile_cols = kPanel,
                              .element_bytes = 2,
                              .block_depth = 1024,
                              .task_x_bytes = 1 << 19,
                              .pack_x = pack<true>,
                              .pack_w = pack<true>,
                              .multiply = multiply};

}  // namespace fettle::kit
