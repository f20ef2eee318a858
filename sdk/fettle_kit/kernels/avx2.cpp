// SPDX-License-Identifier: Apache-2.0
// Compiled for AVX2, FMA and F16C: nothing but intrinsics and our own headers without code may be included here.
#include "fettle_kit/kernels/kernel_table.h"
#include "fettle_kit/kernels/polynomials.h"

#include <immintrin.h>

namespace fettle::kit {
namespace {

using size_t = decltype(sizeof 0);
using ptrdiff_t = decltype(static_cast<char*>(nullptr) - static_cast<char*>(nullptr));

constexpr float kInf = __builtin_inff();

/// The first n of 8 lanes, for n of any sign.
inline __m256i first(ptrdiff_t n) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 0 ? 0 : n > 8 ? 8 : n)), index);
}

/// Which lanes of a group belong to the row.
struct All {};
struct First {
  __m256i low, high;
  explicit First(size_t n) : low(first(static_cast<ptrdiff_t>(n))), high(first(static_cast<ptrdiff_t>(n) - 8)) {}
};

struct V {
  __m256 low, high;
  static V set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static V load(const float* p, All) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static V load(const float* p, First part) {
    return {_mm256_maskload_ps(p, part.low), _mm256_maskload_ps(p + 8, part.high)};
  }
  void store(float* p, All) const { _mm256_storeu_ps(p, low), _mm256_storeu_ps(p + 8, high); }
  void store(float* p, First part) const {
    _mm256_maskstore_ps(p, part.low, low), _mm256_maskstore_ps(p + 8, part.high, high);
  }
};
inline V operator+(V a, V b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline V operator-(V a, V b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline V operator*(V a, V b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline V operator/(V a, V b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
// The second operand if either is NaN.
inline V larger(V a, V b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline V smaller(V a, V b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline V abs(V a) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(bit, a.low), _mm256_andnot_ps(bit, a.high)};
}
inline V square_root(V a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
inline V negative(V a) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(a.low, bit), _mm256_xor_ps(a.high, bit)};
}
inline V copy_sign(V a, V sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, a.low), _mm256_and_ps(bit, sign.low)),
          _mm256_or_ps(_mm256_andnot_ps(bit, a.high), _mm256_and_ps(bit, sign.high))};
}
struct M {
  __m256 low, high;
};
inline M less(V a, V b) { return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)}; }
inline M equal(V a, V b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ)};
}
inline unsigned bits(M m) {
  return static_cast<unsigned>(_mm256_movemask_ps(m.low)) | static_cast<unsigned>(_mm256_movemask_ps(m.high)) << 8;
}
inline V select(M m, V yes, V no) {
  return {_mm256_blendv_ps(no.low, yes.low, m.low), _mm256_blendv_ps(no.high, yes.high, m.high)};
}
inline V keep(All, V a, V) { return a; }
inline V keep(First part, V a, V old) {
  return select({_mm256_castsi256_ps(part.low), _mm256_castsi256_ps(part.high)}, a, old);
}

inline __m256 times_power_of_two(__m256 p, __m256 shifted) {
  const __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(kRoundMagicBits));
  const __m256i half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 first_half = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 second_half = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(p, first_half), second_half);
}
/// 0 where `none`, without the underflow that would cost hundreds of cycles.
inline V times_power_of_two(V p, V, V shifted, M none) {
  shifted = select(none, V::set(kRoundMagic), shifted);
  return select(none, V::set(0.0f), {times_power_of_two(p.low, shifted.low), times_power_of_two(p.high, shifted.high)});
}

inline float add_lanes(V a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lanes(V a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#include "fettle_kit/kernels/row_kernels.inl"

// ---- conversions, 8 at a time

inline __m256 widen_bf16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }

/// The low halves of 8 words.
inline __m128i low_halves(__m256i words) {
  const __m256i packed = _mm256_packus_epi32(words, words);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

inline __m128i narrow_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return low_halves(_mm256_blendv_epi8(rounded, quiet, nan));
}

/// The hardware makes signalling NaNs quiet; the table keeps them as they are.
inline __m256 widen_f16(__m128i x) {
  const __m256i code = _mm256_cvtepu16_epi32(x);
  const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi32(0x7fff));
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7c00));
  const __m256i kept =
      _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x8000)), 16),
                      _mm256_add_epi32(_mm256_slli_epi32(magnitude, 13), _mm256_set1_epi32(224 << 23)));
  return _mm256_blendv_ps(_mm256_cvtph_ps(x), _mm256_castsi256_ps(kept), _mm256_castsi256_ps(nan));
}

inline __m128i narrow_f16(__m256 x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

template <__m256 (*widen)(__m128i)>
void widen_row(float* y, const std::uint16_t* x, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  if (i < n) {
    alignas(16) std::uint16_t rest[8] = {};
    for (size_t j = i; j < n; ++j) rest[j - i] = x[j];
    _mm256_maskstore_ps(y + i, first(static_cast<ptrdiff_t>(n - i)),
                        widen(_mm_load_si128(reinterpret_cast<const __m128i*>(rest))));
  }
}

template <__m128i (*narrow)(__m256)>
void narrow_row(std::uint16_t* y, const float* x, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), narrow(_mm256_loadu_ps(x + i)));
  if (i < n) {
    alignas(16) std::uint16_t rest[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(rest),
                    narrow(_mm256_maskload_ps(x + i, first(static_cast<ptrdiff_t>(n - i)))));
    for (size_t j = i; j < n; ++j) y[j] = rest[j - i];
  }
}

// ---- transposition

struct Block {
  __m256 r0, r1, r2, r3, r4, r5, r6, r7;
};

/// Columns of the 8 rows given.
inline Block transposed(const Block& b) {
  const __m256 a0 = _mm256_unpacklo_ps(b.r0, b.r1), a1 = _mm256_unpackhi_ps(b.r0, b.r1);
  const __m256 a2 = _mm256_unpacklo_ps(b.r2, b.r3), a3 = _mm256_unpackhi_ps(b.r2, b.r3);
  const __m256 a4 = _mm256_unpacklo_ps(b.r4, b.r5), a5 = _mm256_unpackhi_ps(b.r4, b.r5);
  const __m256 a6 = _mm256_unpacklo_ps(b.r6, b.r7), a7 = _mm256_unpackhi_ps(b.r6, b.r7);
  const __m256 c0 = _mm256_shuffle_ps(a0, a2, 0x44), c1 = _mm256_shuffle_ps(a0, a2, 0xee);
  const __m256 c2 = _mm256_shuffle_ps(a1, a3, 0x44), c3 = _mm256_shuffle_ps(a1, a3, 0xee);
  const __m256 c4 = _mm256_shuffle_ps(a4, a6, 0x44), c5 = _mm256_shuffle_ps(a4, a6, 0xee);
  const __m256 c6 = _mm256_shuffle_ps(a5, a7, 0x44), c7 = _mm256_shuffle_ps(a5, a7, 0xee);
  return {_mm256_permute2f128_ps(c0, c4, 0x20), _mm256_permute2f128_ps(c1, c5, 0x20),
          _mm256_permute2f128_ps(c2, c6, 0x20), _mm256_permute2f128_ps(c3, c7, 0x20),
          _mm256_permute2f128_ps(c0, c4, 0x31), _mm256_permute2f128_ps(c1, c5, 0x31),
          _mm256_permute2f128_ps(c2, c6, 0x31), _mm256_permute2f128_ps(c3, c7, 0x31)};
}

/// 8 columns (those of `mask`) of 8 rows; rows beyond the last repeat it.
inline Block load_block(const float* x, ptrdiff_t stride, ptrdiff_t rows, __m256i mask) {
  const auto row = [=](ptrdiff_t i) { return _mm256_maskload_ps(x + (i < rows ? i : rows - 1) * stride, mask); };
  return {row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)};
}
inline Block load_block(const float* x, ptrdiff_t stride) {
  const auto row = [=](ptrdiff_t i) { return _mm256_loadu_ps(x + i * stride); };
  return {row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)};
}

#define FETTLE_COLUMNS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

void transpose(float* y, ptrdiff_t y_stride, const float* x, ptrdiff_t x_stride, ptrdiff_t rows, ptrdiff_t cols) {
  for (ptrdiff_t i = 0; i < rows; i += 8) {
    for (ptrdiff_t j = 0; j < cols; j += 8) {
      float* to = y + j * y_stride + i;
      const float* from = x + i * x_stride + j;
      if (i + 8 <= rows && j + 8 <= cols) {
        const Block t = transposed(load_block(from, x_stride));
#define FETTLE_STORE(c) _mm256_storeu_ps(to + c * y_stride, t.r##c);
        FETTLE_COLUMNS(FETTLE_STORE)
#undef FETTLE_STORE
      } else {
        const __m256i mask = first(rows - i);
        const ptrdiff_t count = cols - j;
        const Block t = transposed(load_block(from, x_stride, rows - i, first(count)));
#define FETTLE_STORE(c) \
  if (c < count) _mm256_maskstore_ps(to + c * y_stride, mask, t.r##c);
        FETTLE_COLUMNS(FETTLE_STORE)
#undef FETTLE_STORE
      }
    }
  }
}

// ---- matrix products

constexpr ptrdiff_t kTileRows = 6;  // 6 x 2 vectors of sums, 2 of b and 1 of a: 15 of 16 registers
constexpr ptrdiff_t kTileCols = 16;

// Named variables, because g++ 12 keeps arrays of vectors on the stack.
#define FETTLE_ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5)

/// 8 floats, or those of the mask.
template <bool whole>
inline __m256 load8(const float* p, __m256i mask) {
  if constexpr (whole) return _mm256_loadu_ps(p);
  return _mm256_maskload_ps(p, mask);
}
template <bool whole>
inline void store8(float* p, __m256i mask, __m256 x) {
  if constexpr (whole) {
    _mm256_storeu_ps(p, x);
  } else {
    _mm256_maskstore_ps(p, mask, x);
  }
}

template <int R, bool whole>
void tile_rows(float* y, ptrdiff_t y_stride, const float* a, const float* b, ptrdiff_t b_stride, ptrdiff_t depth,
               ptrdiff_t cols, bool accumulate) {
  const __m256i left = first(cols), right = first(cols - 8);
#define FETTLE_ZERO(i) __m256 s##i = _mm256_setzero_ps(), t##i = s##i;
  FETTLE_ROWS(FETTLE_ZERO)
#undef FETTLE_ZERO
  if (accumulate) {
#define FETTLE_LOAD(i)                                \
  if constexpr (i < R) {                              \
    s##i = load8<whole>(y + i * y_stride, left);      \
    t##i = load8<whole>(y + i * y_stride + 8, right); \
  }
    FETTLE_ROWS(FETTLE_LOAD)
#undef FETTLE_LOAD
  }
  for (ptrdiff_t k = 0; k < depth; ++k) {
    const __m256 b0 = load8<whole>(b, left), b1 = load8<whole>(b + 8, right);
#define FETTLE_STEP(i)                                      \
  if constexpr (i < R) {                                    \
    const __m256 ai = _mm256_set1_ps(a[i * kPackedStride]); \
    s##i = _mm256_fmadd_ps(ai, b0, s##i);                   \
    t##i = _mm256_fmadd_ps(ai, b1, t##i);                   \
  }
    FETTLE_ROWS(FETTLE_STEP)
#undef FETTLE_STEP
    ++a;
    b += b_stride;
  }
#define FETTLE_STORE(i)                               \
  if constexpr (i < R) {                              \
    store8<whole>(y + i * y_stride, left, s##i);      \
    store8<whole>(y + i * y_stride + 8, right, t##i); \
  }
  FETTLE_ROWS(FETTLE_STORE)
#undef FETTLE_STORE
}
#undef FETTLE_ROWS

void tile(float* y, ptrdiff_t y_stride, const float* a, const float* b, ptrdiff_t b_stride, ptrdiff_t depth,
          ptrdiff_t rows, ptrdiff_t cols, bool accumulate) {
  using Rows = void (*)(float*, ptrdiff_t, const float*, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, bool);
  static constexpr Rows by_rows[2][kTileRows] = {{tile_rows<1, false>, tile_rows<2, false>, tile_rows<3, false>,
                                                  tile_rows<4, false>, tile_rows<5, false>, tile_rows<6, false>},
                                                 {tile_rows<1, true>, tile_rows<2, true>, tile_rows<3, true>,
                                                  tile_rows<4, true>, tile_rows<5, true>, tile_rows<6, true>}};
  by_rows[cols == kTileCols][rows - 1](y, y_stride, a, b, b_stride, depth, cols, accumulate);
}

/// The running sums of R rows of x against 8 rows of w.
template <int R>
struct Sums {
  __m256 s0, s1, s2, s3, s4, s5, s6, s7;

  void load(const float* y, ptrdiff_t stride, __m256i mask, bool accumulate) {
#define FETTLE_LOAD(i) \
  if constexpr (i < R) s##i = accumulate ? _mm256_maskload_ps(y + i * stride, mask) : _mm256_setzero_ps();
    FETTLE_COLUMNS(FETTLE_LOAD)
#undef FETTLE_LOAD
  }
  void store(float* y, ptrdiff_t stride, __m256i mask) const {
#define FETTLE_STORE(i) \
  if constexpr (i < R) _mm256_maskstore_ps(y + i * stride, mask, s##i);
    FETTLE_COLUMNS(FETTLE_STORE)
#undef FETTLE_STORE
  }
  void step(const float* x, __m256 w) {
#define FETTLE_STEP(i) \
  if constexpr (i < R) s##i = _mm256_fmadd_ps(_mm256_set1_ps(x[i]), w, s##i);
    FETTLE_COLUMNS(FETTLE_STEP)
#undef FETTLE_STEP
  }
};

inline __m256 even_half(__m256 pair) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pair), 16)); }
inline __m256 odd_half(__m256 pair) { return _mm256_and_ps(pair, _mm256_castsi256_ps(_mm256_set1_epi32(-65536))); }

// Rows of weights as they are stored: load() takes 8 words of 32 bits from element k on, one() element k. Eight rows of
// such words are `bytes` of memory.
struct F32Rows {
  using Element = float;
  static constexpr ptrdiff_t per_word = 1, bytes = 8 * 8 * 4;
  static __m256 load(const float* row, ptrdiff_t k) { return _mm256_loadu_ps(row + k); }
  static float one(const float* row, ptrdiff_t k) { return row[k]; }
};
struct F16Rows {
  using Element = std::uint16_t;
  static constexpr ptrdiff_t per_word = 1, bytes = 8 * 8 * 2;
  static __m256 load(const std::uint16_t* row, ptrdiff_t k) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + k)));
  }
  static float one(const std::uint16_t* row, ptrdiff_t k) { return _cvtsh_ss(row[k]); }
};
struct Q8Rows {
  using Element = std::uint8_t;
  static constexpr ptrdiff_t per_word = 1, bytes = 8 * 34 / 4;
  static __m256 load(const std::uint8_t* row, ptrdiff_t k) {
    const std::uint8_t* block = row + k / 32 * 34;
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 2 + k % 32));
    const __m256 scale = _mm256_cvtph_ps(_mm_broadcastw_epi16(_mm_loadu_si16(block)));
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)));
  }
  static float one(const std::uint8_t*, ptrdiff_t) { return 0; }  // there are only whole blocks
};
/// Two neighbours in one 32-bit word are transposed as one.
struct Bf16Rows {
  using Element = std::uint16_t;
  static constexpr ptrdiff_t per_word = 2, bytes = 8 * 8 * 4;
  static __m256 load(const std::uint16_t* row, ptrdiff_t k) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(row + k));
  }
  static float one(const std::uint16_t* row, ptrdiff_t k) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(row[k]) << 16);
  }
};

template <class Rows, int R>
void thin_rows(float* y, ptrdiff_t y_stride, const float* x, const typename Rows::Element* w, ptrdiff_t w_stride,
               ptrdiff_t w_rows, ptrdiff_t depth, bool accumulate, const char* ahead) {
  constexpr ptrdiff_t per_word = Rows::per_word;
  for (ptrdiff_t j = 0; j < w_rows; j += 8, w += 8 * w_stride, y += 8) {
    const ptrdiff_t rows = w_rows - j;
    const __m256i mask = first(rows);
    Sums<R> sums;
    sums.load(y, y_stride, mask, accumulate);
    ptrdiff_t k = 0;
    for (; k + 8 * per_word <= depth; k += 8 * per_word) {
      if (ahead != nullptr) {
        for (ptrdiff_t at = 0; at < Rows::bytes; at += 64) _mm_prefetch(ahead + at, _MM_HINT_T0);
        ahead += Rows::bytes;
      }
      const auto row = [=](ptrdiff_t i) { return Rows::load(w + (i < rows ? i : rows - 1) * w_stride, k); };
      const Block t = transposed({row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)});
      const float* at = x + k * R;
#define FETTLE_STEP(c)                                 \
  if constexpr (per_word == 1) {                       \
    sums.step(at + c * R, t.r##c);                     \
  } else {                                             \
    sums.step(at + 2 * c * R, even_half(t.r##c));      \
    sums.step(at + (2 * c + 1) * R, odd_half(t.r##c)); \
  }
      FETTLE_COLUMNS(FETTLE_STEP)
#undef FETTLE_STEP
    }
    for (; k < depth; ++k) {
      alignas(32) float column[8];
      for (ptrdiff_t i = 0; i < 8; ++i) {
        column[i] = Rows::one(w + (i < rows ? i : rows - 1) * w_stride, k);
      }
      sums.step(x + k * R, _mm256_load_ps(column));
    }
    sums.store(y, y_stride, mask);
  }
}
#undef FETTLE_COLUMNS

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

const KernelTable avx2_kernels = {
    .name = "avx2",
    .vectors = Vectors::avx2,
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
    .bf16 = &avx2_bf16,
};

}  // namespace fettle::kit
