// SPDX-License-Identifier: Apache-2.0
// bf16 products on AMX tiles. Compiled for AVX-512 and AMX: nothing but intrinsics and our own headers without code may
// be included here.
//
// A row of an x tile is a row of x; a row of a w tile holds two neighbours along the sum of each of 16 columns. Both
// are words of 32 bits, so each is the transpose of the other.
#include "fettle_kit/kernels/kernel_table.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

using std::ptrdiff_t;

#include "fettle_kit/kernels/transpose_avx512.inl"

/// Words as the tile instruction wants them.
struct Pairs {
  static constexpr ptrdiff_t low(ptrdiff_t word) { return 2 * word; }
  static constexpr ptrdiff_t high(ptrdiff_t word) { return 2 * word + 1; }
  static __m512i paired(__m512i x) { return x; }
};

#include "fettle_kit/kernels/bf16_words.inl"

/// All eight tiles 16 rows of 64 bytes. The compiler does not know that the instruction reads all of the structure, nor
/// that it must stay before the tile loads.
inline void configure_tiles() {
  struct alignas(64) Configuration {
    std::uint8_t palette, start_row, reserved[14];
    std::uint16_t row_bytes[16];
    std::uint8_t rows[16];
  };
  static constexpr Configuration configuration = {
      1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  asm volatile("" ::"r"(&configuration) : "memory");
  _tile_loadconfig(&configuration);
  asm volatile("" ::: "memory");
}

/// 32 x 32 elements of y. Tiles 0 to 3 hold the sums, 4 and 5 x, 6 and 7 w.
inline void multiply_panels(float* y, ptrdiff_t y_stride, const char* x, const char* w, ptrdiff_t slices,
                            bool accumulate) {
  const ptrdiff_t bytes = y_stride * 4;
  float* const below = y + 16 * y_stride;
  if (accumulate) {
    _tile_loadd(0, y, bytes);
    _tile_loadd(1, y + 16, bytes);
    _tile_loadd(2, below, bytes);
    _tile_loadd(3, below + 16, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (ptrdiff_t s = 0; s < slices; ++s, x += kSliceBytes, w += kSliceBytes) {
    _tile_loadd(4, x, 64);
    _tile_loadd(6, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + kTileBytes, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, x + kTileBytes, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, y, bytes);
  _tile_stored(1, y + 16, bytes);
  _tile_stored(2, below, bytes);
  _tile_stored(3, below + 16, bytes);
}

void multiply(float* y, ptrdiff_t y_stride, const void* x, const void* w, ptrdiff_t rows, ptrdiff_t cols,
              ptrdiff_t depth, bool accumulate) {
  const ptrdiff_t slices = (depth + kBf16Slice - 1) / kBf16Slice, panel_bytes = slices * kSliceBytes;
  alignas(64) float part[kPanel][kPanel];
  configure_tiles();
  for (ptrdiff_t i = 0; i < rows; i += kPanel) {
    const char* panel_x = static_cast<const char*>(x) + i / kPanel * panel_bytes;
    for (ptrdiff_t j = 0; j < cols; j += kPanel) {
      const char* panel_w = static_cast<const char*>(w) + j / kPanel * panel_bytes;
      float* to = y + i * y_stride + j;
      if (i + kPanel <= rows && j + kPanel <= cols) {
        multiply_panels(to, y_stride, panel_x, panel_w, slices, accumulate);
        continue;
      }
      const ptrdiff_t height = rows - i < kPanel ? rows - i : kPanel;
      const __mmask16 left = first16(cols - j), right = first16(cols - j - 16);
      for (ptrdiff_t r = 0; r < height && accumulate; ++r) {
        _mm512_store_ps(part[r], _mm512_maskz_loadu_ps(left, to + r * y_stride));
        _mm512_store_ps(part[r] + 16, _mm512_maskz_loadu_ps(right, to + r * y_stride + 16));
      }
      for (ptrdiff_t r = height; r < kPanel && accumulate; ++r) {
        _mm512_store_ps(part[r], _mm512_setzero_ps());
        _mm512_store_ps(part[r] + 16, _mm512_setzero_ps());
      }
      multiply_panels(part[0], kPanel, panel_x, panel_w, slices, accumulate);
      for (ptrdiff_t r = 0; r < height; ++r) {
        _mm512_mask_storeu_ps(to + r * y_stride, left, _mm512_load_ps(part[r]));
        _mm512_mask_storeu_ps(to + r * y_stride + 16, right, _mm512_load_ps(part[r] + 16));
      }
    }
  }
  _tile_release();
}

}  // namespace

const Bf16Kernels amx_bf16 = {.tile_rows = kPanel,
                              .tile_cols = kPanel,
                              .element_bytes = 2,
                              .block_depth = 2048,
                              .task_x_bytes = 1 << 20,
                              .pack_x = pack<false>,
                              .pack_w = pack<true>,
                              .multiply = multiply};

}  // namespace fettle::kit
