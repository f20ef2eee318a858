// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX-512: nothing but intrinsics and our own headers without code may be included here.
#include "fettle_kit/kernels/kernel_table.h"
#include "fettle_kit/kernels/polynomials.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

using size_t = decltype(sizeof 0);
using ptrdiff_t = decltype(static_cast<char*>(nullptr) - static_cast<char*>(nullptr));

constexpr float kInf = __builtin_inff();

/// Which lanes of a group belong to the row.
struct All {};
struct First {
  __mmask16 mask;
  explicit First(size_t n) : mask(static_cast<__mmask16>((1u << n) - 1)) {}
};

struct V {
  __m512 v;
  static V set(float x) { return {_mm512_set1_ps(x)}; }
  static V load(const float* p, All) { return {_mm512_loadu_ps(p)}; }
  static V load(const float* p, First part) { return {_mm512_maskz_loadu_ps(part.mask, p)}; }
  void store(float* p, All) const { _mm512_storeu_ps(p, v); }
  void store(float* p, First part) const { _mm512_mask_storeu_ps(p, part.mask, v); }
};
inline V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V larger(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }   // b if either is NaN
inline V smaller(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }  // b if either is NaN
inline V abs(V a) { return {_mm512_abs_ps(a.v)}; }
inline V square_root(V a) { return {_mm512_sqrt_ps(a.v)}; }
inline V negative(V a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
inline V copy_sign(V a, V sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(bit, a.v), _mm512_and_ps(bit, sign.v))};
}
struct M {
  __mmask16 m;
};
inline M less(V a, V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline M equal(V a, V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline unsigned bits(M m) { return m.m; }
inline V select(M m, V yes, V no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
inline V keep(All, V a, V) { return a; }
inline V keep(First part, V a, V old) { return {_mm512_mask_blend_ps(part.mask, old.v, a.v)}; }

/// p 2^n with one rounding, subnormal results included, as two exact factors give; 0 where `none`: masked, because an
/// underflow costs hundreds of cycles.
inline V times_power_of_two(V p, V n, V, M none) {
  return {_mm512_maskz_scalef_ps(static_cast<__mmask16>(~none.m), p.v, n.v)};
}

inline float add_lanes(V a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lanes(V a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#include "fettle_kit/kernels/row_kernels.inl"

// ---- conversions

inline __m512 widen_bf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

inline __m256i narrow_bf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
}

/// The hardware makes signalling NaNs quiet; the table keeps them as they are.
inline __m512 widen_f16(__m256i x) {
  const __m512i code = _mm512_cvtepu16_epi32(x);
  const __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7c00));
  const __m512i kept =
      _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(code, _mm512_set1_epi32(0x8000)), 16),
                      _mm512_add_epi32(_mm512_slli_epi32(magnitude, 13), _mm512_set1_epi32(224 << 23)));
  return _mm512_castsi512_ps(_mm512_mask_blend_epi32(nan, _mm512_castps_si512(_mm512_cvtph_ps(x)), kept));
}

inline __m256i narrow_f16(__m512 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

template <__m512 (*widen)(__m256i)>
void widen_row(float* y, const std::uint16_t* x, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    _mm512_storeu_ps(y + i, widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  if (i < n) {
    const First rest(n - i);
    _mm512_mask_storeu_ps(y + i, rest.mask, widen(_mm256_maskz_loadu_epi16(rest.mask, x + i)));
  }
}

template <__m256i (*narrow)(__m512)>
void narrow_row(std::uint16_t* y, const float* x, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i), narrow(_mm512_loadu_ps(x + i)));
  if (i < n) {
    const First rest(n - i);
    _mm256_mask_storeu_epi16(y + i, rest.mask, narrow(_mm512_maskz_loadu_ps(rest.mask, x + i)));
  }
}

// ---- transposition

#include "fettle_kit/kernels/transpose_avx512.inl"

/// 16 columns (those of `mask`) of 16 rows; rows beyond the last repeat it.
inline Block load_block(const float* x, ptrdiff_t stride, ptrdiff_t rows, __mmask16 mask) {
  const auto row = [=](ptrdiff_t i) { return _mm512_maskz_loadu_ps(mask, x + (i < rows ? i : rows - 1) * stride); };
  return {row(0), row(1), row(2),  row(3),  row(4),  row(5),  row(6),  row(7),
          row(8), row(9), row(10), row(11), row(12), row(13), row(14), row(15)};
}
inline Block load_block(const float* x, ptrdiff_t stride) {
  const auto row = [=](ptrdiff_t i) { return _mm512_loadu_ps(x + i * stride); };
  return {row(0), row(1), row(2),  row(3),  row(4),  row(5),  row(6),  row(7),
          row(8), row(9), row(10), row(11), row(12), row(13), row(14), row(15)};
}

inline __mmask16 first(ptrdiff_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1 << n) - 1); }

void transpose(float* y, ptrdiff_t y_stride, const float* x, ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t cols) {
  for (ptrdiff_t i = 0; i < rows; i += 16) {
    const __mmask16 row_mask = first(rows - i);
    for (ptrdiff_t j = 0; j < cols; j += 16) {
      const bool whole = i + 16 <= rows && j + 16 <= cols;
      const Block t = transposed(whole ? load_block(x + i * x_stride + j, x_stride)
                                       : load_block(x + i * x_stride + j, x_stride, rows - i, first(cols - j)));
      float* to = y + j * y_stride + i;
      const ptrdiff_t count = cols - j;
#define FETTLE_STORE(c) \
  if (c < count) _mm512_mask_storeu_ps(to + c * y_stride, row_mask, t.r##c);
      FETTLE_STORE(0)
      FETTLE_STORE(1)
      FETTLE_STORE(2)
      FETTLE_STORE(3)
      FETTLE_STORE(4)
      FETTLE_STORE(5)
      FETTLE_STORE(6)
      FETTLE_STORE(7) FETTLE_STORE(8) FETTLE_STORE(9) FETTLE_STORE(10) FETTLE_STORE(11) FETTLE_STORE(12)
          FETTLE_STORE(13) FETTLE_STORE(14) FETTLE_STORE(15)
#undef FETTLE_STORE
    }
  }
}

// ---- matrix products

constexpr ptrdiff_t kTileRows = 14;  // 14 x 2 vectors of sums, 2 of b and 1 of a: 31 of 32 registers
constexpr ptrdiff_t kTileCols = 32;

// Named variables, because g++ 12 keeps arrays of vectors on the stack.
#define FETTLE_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)

/// 16 floats, or those of the mask. A masked load costs a slot of an arithmetic unit.
template <bool whole>
inline __m512 load16(const float* p, __mmask16 mask) {
  if constexpr (whole) return _mm512_loadu_ps(p);
  return _mm512_maskz_loadu_ps(mask, p);
}

template <bool whole>
inline void store16(float* p, __mmask16 mask, __m512 x) {
  if constexpr (whole) {
    _mm512_storeu_ps(p, x);
  } else {
    _mm512_mask_storeu_ps(p, mask, x);
  }
}

template <int R, bool whole>
void tile_rows(float* y, ptrdiff_t y_stride, const float* a, const float* b, ptrdiff_t b_stride, ptrdiff_t depth,
               ptrdiff_t cols, bool accumulate) {
  const __mmask16 left = first(cols), right = cols > 16 ? first(cols - 16) : __mmask16{0};
#define FETTLE_ZERO(i) __m512 s##i = _mm512_setzero_ps(), t##i = s##i;
  FETTLE_ROWS(FETTLE_ZERO)
#undef FETTLE_ZERO
  if (accumulate) {
#define FETTLE_LOAD(i)                                  \
  if constexpr (i < R) {                                \
    s##i = load16<whole>(y + i * y_stride, left);       \
    t##i = load16<whole>(y + i * y_stride + 16, right); \
  }
    FETTLE_ROWS(FETTLE_LOAD)
#undef FETTLE_LOAD
  }
  if constexpr (R == kTileRows) {  // the caller goes on with the rows below
    const char* below = reinterpret_cast<const char*>(y + kTileRows * y_stride);
    for (ptrdiff_t i = 0; i < kTileRows; ++i, below += y_stride * 4) {
      _mm_prefetch(below, _MM_HINT_T0);
      _mm_prefetch(below + 64, _MM_HINT_T0);
    }
  }
  for (ptrdiff_t k = 0; k < depth; ++k) {
    const __m512 b0 = load16<whole>(b, left), b1 = load16<whole>(b + 16, right);
#define FETTLE_STEP(i)                                      \
  if constexpr (i < R) {                                    \
    const __m512 ai = _mm512_set1_ps(a[i * kPackedStride]); \
    s##i = _mm512_fmadd_ps(ai, b0, s##i);                   \
    t##i = _mm512_fmadd_ps(ai, b1, t##i);                   \
  }
    FETTLE_ROWS(FETTLE_STEP)
#undef FETTLE_STEP
    ++a;
    b += b_stride;
  }
#define FETTLE_STORE(i)                                 \
  if constexpr (i < R) {                                \
    store16<whole>(y + i * y_stride, left, s##i);       \
    store16<whole>(y + i * y_stride + 16, right, t##i); \
  }
  FETTLE_ROWS(FETTLE_STORE)
#undef FETTLE_STORE
}
#undef FETTLE_ROWS

void tile(float* y, ptrdiff_t y_stride, const float* a, const float* b, ptrdiff_t b_stride, ptrdiff_t depth,
          ptrdiff_t rows, ptrdiff_t cols, bool accumulate) {
  using Rows = void (*)(float*, ptrdiff_t, const float*, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, bool);
  static constexpr Rows by_rows[2][kTileRows] = {
      {tile_rows<1, false>, tile_rows<2, false>, tile_rows<3, false>, tile_rows<4, false>, tile_rows<5, false>,
       tile_rows<6, false>, tile_rows<7, false>, tile_rows<8, false>, tile_rows<9, false>, tile_rows<10, false>,
       tile_rows<11, false>, tile_rows<12, false>, tile_rows<13, false>, tile_rows<14, false>},
      {tile_rows<1, true>, tile_rows<2, true>, tile_rows<3, true>, tile_rows<4, true>, tile_rows<5, true>,
       tile_rows<6, true>, tile_rows<7, true>, tile_rows<8, true>, tile_rows<9, true>, tile_rows<10, true>,
       tile_rows<11, true>, tile_rows<12, true>, tile_rows<13, true>, tile_rows<14, true>}};
  by_rows[cols == kTileCols][rows - 1](y, y_stride, a, b, b_stride, depth, cols, accumulate);
}

#define FETTLE_THIN_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

template <int R>
struct Sums {
  static constexpr ptrdiff_t rows = R;
  __m512 s0, s1, s2, s3, s4, s5, s6, s7;

  void load(const float* y, ptrdiff_t stride, __mmask16 mask, bool accumulate) {
#define FETTLE_LOAD(i) \
  if constexpr (i < R) s##i = accumulate ? _mm512_maskz_loadu_ps(mask, y + i * stride) : _mm512_setzero_ps();
    FETTLE_THIN_ROWS(FETTLE_LOAD)
#undef FETTLE_LOAD
  }
  void store(float* y, ptrdiff_t stride, __mmask16 mask) const {
#define FETTLE_STORE(i) \
  if constexpr (i < R) _mm512_mask_storeu_ps(y + i * stride, mask, s##i);
    FETTLE_THIN_ROWS(FETTLE_STORE)
#undef FETTLE_STORE
  }
  void step(const float* x, __m512 w) {
#define FETTLE_STEP(i) \
  if constexpr (i < R) s##i = _mm512_fmadd_ps(_mm512_set1_ps(x[i]), w, s##i);
    FETTLE_THIN_ROWS(FETTLE_STEP)
#undef FETTLE_STEP
  }
};
#undef FETTLE_THIN_ROWS

/// 16 rows of weights as they are stored, `depth` of each at a time, `bytes` of memory. load() takes 16 words of 32
/// bits of each row from element k on, all or `left` elements.
template <class Number>
struct WidenedRows {
  using Element = Number;
  static constexpr ptrdiff_t depth = 16, bytes = 16 * depth * sizeof(Number);
  template <class S>
  static void step(S& sums, const float* x, __m512 w, ptrdiff_t k) {
    sums.step(x + k * S::rows, w);
  }
};
struct F32Rows : WidenedRows<float> {
  static __m512 load(const float* row, ptrdiff_t k) { return _mm512_loadu_ps(row + k); }
  static __m512 load(const float* row, ptrdiff_t k, ptrdiff_t left) {
    return _mm512_maskz_loadu_ps(first(left), row + k);
  }
};
struct F16Rows : WidenedRows<std::uint16_t> {
  static __m512 load(const std::uint16_t* row, ptrdiff_t k) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + k)));
  }
  static __m512 load(const std::uint16_t* row, ptrdiff_t k, ptrdiff_t left) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(left), row + k));
  }
};
/// Half a block.
struct Q8Rows : WidenedRows<std::uint8_t> {
  static constexpr ptrdiff_t bytes = 16 * 34 / 2;
  static __m512 load(const std::uint8_t* row, ptrdiff_t k, ptrdiff_t) { return load(row, k); }
  static __m512 load(const std::uint8_t* row, ptrdiff_t k) {
    const std::uint8_t* block = row + k / 32 * 34;
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2 + k % 32));
    const __m512 scale = _mm512_cvtph_ps(_mm256_broadcastw_epi16(_mm_loadu_si16(block)));
    return _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)));
  }
};
/// Two neighbours in one 32-bit word are transposed as one.
struct Bf16Rows {
  using Element = std::uint16_t;
  static constexpr ptrdiff_t depth = 32, bytes = 16 * depth * 2;
  static __m512 load(const std::uint16_t* row, ptrdiff_t k) { return _mm512_loadu_ps(row + k); }
  static __m512 load(const std::uint16_t* row, ptrdiff_t k, ptrdiff_t left) {
    const auto mask = static_cast<__mmask32>(left >= 32 ? 0xffffffffu : (1u << left) - 1);
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, row + k));
  }
  template <class S>
  static void step(S& sums, const float* x, __m512 w, ptrdiff_t k) {
    const __m512i pair = _mm512_castps_si512(w);
    sums.step(x + 2 * k * S::rows, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
    sums.step(x + (2 * k + 1) * S::rows, _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(-65536))));
  }
};

/// The block of 16 rows; rows beyond the last repeat it.
template <class Rows>
inline Block load_some_rows(const typename Rows::Element* w, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t left) {
  const auto row = [=](ptrdiff_t i) { return Rows::load(w + (i < rows ? i : rows - 1) * stride, k, left); };
  return {row(0), row(1), row(2),  row(3),  row(4),  row(5),  row(6),  row(7),
          row(8), row(9), row(10), row(11), row(12), row(13), row(14), row(15)};
}

template <class Rows>
inline Block load_rows(const typename Rows::Element* w, ptrdiff_t stride, ptrdiff_t k) {
  const auto row = [=](ptrdiff_t i) { return Rows::load(w + i * stride, k); };
  return {row(0), row(1), row(2),  row(3),  row(4),  row(5),  row(6),  row(7),
          row(8), row(9), row(10), row(11), row(12), row(13), row(14), row(15)};
}

template <class Rows, int R>
void thin_rows(float* y, ptrdiff_t y_stride, const float* x, const typename Rows::Element* w, ptrdiff_t w_stride,
               ptrdiff_t w_rows, ptrdiff_t depth, bool accumulate, const char* ahead) {
  for (ptrdiff_t j = 0; j < w_rows; j += 16, w += 16 * w_stride, y += 16) {
    const ptrdiff_t rows = w_rows - j;
    const __mmask16 mask = first(rows);
    Sums<R> sums;
    sums.load(y, y_stride, mask, accumulate);
    ptrdiff_t k = 0;
    for (; k + Rows::depth <= depth; k += Rows::depth) {
      if (ahead != nullptr) {
        for (ptrdiff_t at = 0; at < Rows::bytes; at += 64) _mm_prefetch(ahead + at, _MM_HINT_T0);
        ahead += Rows::bytes;
      }
      const Block t = transposed(rows >= 16 ? load_rows<Rows>(w, w_stride, k)
                                            : load_some_rows<Rows>(w, w_stride, rows, k, Rows::depth));
      const float* at = x + k * R;
#define FETTLE_STEP(c) Rows::step(sums, at, t.r##c, c);
      FETTLE_STEP(0)
      FETTLE_STEP(1)
      FETTLE_STEP(2)
      FETTLE_STEP(3)
      FETTLE_STEP(4)
      FETTLE_STEP(5)
      FETTLE_STEP(6)
      FETTLE_STEP(7) FETTLE_STEP(8) FETTLE_STEP(9) FETTLE_STEP(10) FETTLE_STEP(11) FETTLE_STEP(12) FETTLE_STEP(13)
          FETTLE_STEP(14) FETTLE_STEP(15)
#undef FETTLE_STEP
    }
    if (k < depth) {  // what is left of the depth goes through memory
      alignas(64) float words[16][16];
      const Block t = transposed(load_some_rows<Rows>(w, w_stride, rows, k, depth - k));
#define FETTLE_STORE(c) _mm512_store_ps(words[c], t.r##c);
      FETTLE_STORE(0)
      FETTLE_STORE(1)
      FETTLE_STORE(2)
      FETTLE_STORE(3)
      FETTLE_STORE(4)
      FETTLE_STORE(5)
      FETTLE_STORE(6)
      FETTLE_STORE(7) FETTLE_STORE(8) FETTLE_STORE(9) FETTLE_STORE(10) FETTLE_STORE(11) FETTLE_STORE(12)
          FETTLE_STORE(13) FETTLE_STORE(14) FETTLE_STORE(15)
#undef FETTLE_STORE
              constexpr ptrdiff_t per_word = Rows::depth / 16;
      for (ptrdiff_t c = 0; k < depth; ++k, ++c) {
        __m512 word = _mm512_load_ps(words[c / per_word]);
        if constexpr (per_word == 2) {
          const __m512i pair = _mm512_castps_si512(word);
          word = _mm512_castsi512_ps(c % 2 == 0 ? _mm512_slli_epi32(pair, 16)
                                                : _mm512_and_si512(pair, _mm512_set1_epi32(-65536)));
        }
        sums.step(x + k * R, word);
      }
    }
    sums.store(y, y_stride, mask);
  }
}

template <class Rows>
void thin(float* y, ptrdiff_t y_stride, const float* x, ptrdiff_t x_rows, const typename Rows::Element* w,
          ptrdiff_t w_stride, ptrdiff_t w_rows, ptrdiff_t depth, bool accumulate, const void* ahead) {
  using Function = void (*)(float*, ptrdiff_t, const float*, const typename Rows::Element*, ptrdiff_t, ptrdiff_t,
                            ptrdiff_t, bool, const char*);
  static constexpr Function by_rows[kThinRows] = {thin_rows<Rows, 1>, thin_rows<Rows, 2>, thin_rows<Rows, 3>,
                                                  thin_rows<Rows, 4>, thin_rows<Rows, 5>, thin_rows<Rows, 6>,
                                                  thin_rows<Rows, 7>, thin_rows<Rows, 8>};
  by_rows[x_rows - 1](y, y_stride, x, w, w_stride, w_rows, depth, accumulate, static_cast<const char*>(ahead));
}

}  // namespace

const KernelTable avx512_kernels = {
    .name = "avx512",
    .vectors = Vectors::avx512,
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
    .exp = each<Exp>,
    .tanh = each<Tanh>,
    .sigmoid = each<Sigmoid>,
    .silu = each<Silu>,
    .gelu_tanh = each<GeluTanh>,
    .silu_mul = each_mul<Silu>,
    .gelu_mul = each_mul<GeluTanh>,
    .silu_mul_gradient = mul_gradient<SiluSlope>,
    .gelu_mul_gradient = mul_gradient<GeluSlope>,
    .exp_sum = exp_sum,
    .rotate = rotate,
    .bf16_to_f32 = widen_row<widen_bf16>,
    .f32_to_bf16 = narrow_row<narrow_bf16>,
    .f16_to_f32 = widen_row<widen_f16>,
    .f32_to_f16 = narrow_row<narrow_f16>,
    .tile_rows = kTileRows,
    .tile_cols = kTileCols,
    .tile = tile,
    .transpose = transpose,
    .thin_f32 = thin<F32Rows>,
    .thin_bf16 = thin<Bf16Rows>,
    .thin_f16 = thin<F16Rows>,
    .thin_q8_0 = thin<Q8Rows>,
    .bf16 = &avx512_bf16,
};

}  // namespace fettle::kit
