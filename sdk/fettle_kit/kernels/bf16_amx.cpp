// SPDX-License-Identifier: Apache-2.0
// bf16 products on AMX tiles. Compiled for AVX-512 and AMX: nothing but intrinsics and our own headers without code may
// be included here.
//
// A panel is 32 rows of x or 32 columns of w, slice by slice of 32 numbers along the sum, each slice two tiles of 16
// rows of 64 bytes. A row of an x tile is a row of x; a row of a w tile holds two neighbours along the sum of each of
// 16 columns. Both are words of 32 bits, so each is the transpose of the other.
#include "fettle_kit/kernels/kernel_table.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

using std::ptrdiff_t;

#include "fettle_kit/kernels/transpose_avx512.inl"

constexpr ptrdiff_t kPanel = 32;
constexpr ptrdiff_t kTileBytes = 1024;
constexpr ptrdiff_t kSliceBytes = 2 * kTileBytes;

inline __mmask16 first16(ptrdiff_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }
inline __mmask32 first32(ptrdiff_t n) { return n >= 32 ? 0xffffffffu : n <= 0 ? 0u : (1u << n) - 1; }

inline __m512i rounded_words(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_mask_or_epi32(sum, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
}

/// 32 numbers rounded to bf16, those of `low` first. The instruction takes subnormals for zero, the largest of which
/// round to a normal number.
inline __m512i narrow(__m512 low, __m512 high) {
  constexpr int kSubnormal = 0x20;
  if (_mm512_kortestz(_mm512_fpclass_ps_mask(low, kSubnormal), _mm512_fpclass_ps_mask(high, kSubnormal))) [[likely]]
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  const __m256i l = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_words(low), 16));
  const __m256i h = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_words(high), 16));
  return _mm512_inserti64x4(_mm512_castsi256_si512(l), h, 1);
}

/// 16 rows of 32 numbers along the sum, zeros where there are fewer, from f32 or bf16.
template <class Number>
struct AlongRows {
  static constexpr bool words_by_depth = false;
  const Number* data;
  ptrdiff_t stride;

  __m512 row(ptrdiff_t i, ptrdiff_t k, ptrdiff_t rows, ptrdiff_t depth) const {
    if (i >= rows) return _mm512_setzero_ps();
    const Number* p = data + i * stride + k;
    if constexpr (sizeof(Number) == 2) {
      return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(first32(depth - k), p));
    } else {
      const __mmask16 left = first16(depth - k), right = first16(depth - k - 16);
      return _mm512_castsi512_ps(narrow(_mm512_maskz_loadu_ps(left, p), _mm512_maskz_loadu_ps(right, p + 16)));
    }
  }
};

/// 16 pairs of neighbours along the sum, each of 16 rows, which lie side by side.
template <class Number>
struct AlongDepth {
  static constexpr bool words_by_depth = true;
  const Number* data;
  ptrdiff_t stride;

  __m512 row(ptrdiff_t i, ptrdiff_t k, ptrdiff_t rows, ptrdiff_t depth) const {
    const __mmask16 mask = first16(rows - i);
    const Number* p = data + k * stride + i;
    const __mmask16 even = k < depth ? mask : __mmask16{0}, odd = k + 1 < depth ? mask : __mmask16{0};
    if constexpr (sizeof(Number) == 2) {
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(even, p));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(odd, p + stride));
      return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    } else {
      const __m512i zipped = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
      const __m512i both = narrow(_mm512_maskz_loadu_ps(even, p), _mm512_maskz_loadu_ps(odd, p + stride));
      return _mm512_castsi512_ps(_mm512_permutexvar_epi16(zipped, both));
    }
  }
};

/// One tile: rows [i, i + 16) and slice k of the source.
template <bool by_depth, class Source>
inline void pack_tile(char* to, const Source& from, ptrdiff_t i, ptrdiff_t k, ptrdiff_t rows, ptrdiff_t depth) {
  const auto row = [&](ptrdiff_t r) {
    return Source::words_by_depth ? from.row(i, k + 2 * r, rows, depth) : from.row(i + r, k, rows, depth);
  };
  Block t{row(0), row(1), row(2),  row(3),  row(4),  row(5),  row(6),  row(7),
          row(8), row(9), row(10), row(11), row(12), row(13), row(14), row(15)};
  if constexpr (by_depth != Source::words_by_depth) t = transposed(t);
#define FETTLE_STORE(c) _mm512_store_ps(to + 64 * c, t.r##c);
  FETTLE_STORE(0)
  FETTLE_STORE(1)
  FETTLE_STORE(2)
  FETTLE_STORE(3)
  FETTLE_STORE(4)
  FETTLE_STORE(5)
  FETTLE_STORE(6)
  FETTLE_STORE(7)
  FETTLE_STORE(8)
  FETTLE_STORE(9) FETTLE_STORE(10) FETTLE_STORE(11) FETTLE_STORE(12) FETTLE_STORE(13) FETTLE_STORE(14) FETTLE_STORE(15)
#undef FETTLE_STORE
}

template <bool by_depth, class Source>
void pack_from(void* to, const Source& from, ptrdiff_t rows, ptrdiff_t depth) {
  const ptrdiff_t panel_bytes = (depth + kBf16Slice - 1) / kBf16Slice * kSliceBytes;
  const auto panel = [&](ptrdiff_t i, ptrdiff_t k) {
    char* at = static_cast<char*>(to) + i / kPanel * panel_bytes + k / kBf16Slice * kSliceBytes;
    pack_tile<by_depth>(at, from, i, k, rows, depth);
    pack_tile<by_depth>(at + kTileBytes, from, i + 16, k, rows, depth);
  };
  if constexpr (Source::words_by_depth) {  // in the order of memory
    for (ptrdiff_t k = 0; k < depth; k += kBf16Slice)
      for (ptrdiff_t i = 0; i < rows; i += kPanel) panel(i, k);
  } else {
    for (ptrdiff_t i = 0; i < rows; i += kPanel)
      for (ptrdiff_t k = 0; k < depth; k += kBf16Slice) panel(i, k);
  }
}

template <bool by_depth>
void pack(void* to, Bf16Source from, ptrdiff_t rows, ptrdiff_t depth) {
  const auto* halves = static_cast<const std::uint16_t*>(from.data);
  const auto* floats = static_cast<const float*>(from.data);
  if (from.stored && from.by_depth) {
    pack_from<by_depth>(to, AlongDepth<std::uint16_t>{halves, from.stride}, rows, depth);
  } else if (from.stored) {
    pack_from<by_depth>(to, AlongRows<std::uint16_t>{halves, from.stride}, rows, depth);
  } else if (from.by_depth) {
    pack_from<by_depth>(to, AlongDepth<float>{floats, from.stride}, rows, depth);
  } else {
    pack_from<by_depth>(to, AlongRows<float>{floats, from.stride}, rows, depth);
  }
}

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
                              .pack_x = pack<false>,
                              .pack_w = pack<true>,
                              .multiply = multiply};

}  // namespace fettle::kit
