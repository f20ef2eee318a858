// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_lanes.h"
#include "fettle_kit/tensor/block_layout.h"
#include "fettle_kit/tensor/lattice_layout.h"
#include "fettle_kit/tensor/lattice_search.h"

#include <immintrin.h>
#include <stddef.h>

namespace fettle::kit {
namespace {

/// Sixteen floats in two registers, one a sub-block.
struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct M {
  __m256 a, b;  ///< all ones or all zeros in each lane
};

inline F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F sqrt_of(F x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
inline F abs_of(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F min_of(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }  // x < y ? x : y
inline F max_of(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }  // x > y ? x : y
inline M operator<(F x, F y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)}; }
inline M operator>(F x, F y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)}; }
inline M operator>=(F x, F y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)}; }
inline M operator==(F x, F y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)}; }
inline M operator&(M x, M y) { return {_mm256_and_ps(x.a, y.a), _mm256_and_ps(x.b, y.b)}; }
inline M operator|(M x, M y) { return {_mm256_or_ps(x.a, y.a), _mm256_or_ps(x.b, y.b)}; }
inline M operator~(M x) {
  const __m256 ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  return {_mm256_xor_ps(x.a, ones), _mm256_xor_ps(x.b, ones)};
}
inline bool any(M x) { return _mm256_movemask_ps(_mm256_or_ps(x.a, x.b)) != 0; }
inline F select(M m, F yes, F no) { return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)}; }

inline __m256 nearest_half(__m256 x) {
  const __m256i bits = _mm256_castps_si256(_mm256_add_ps(x, _mm256_set1_ps(12582912.0f)));
  const __m256i low = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(0x400000)));
}
/// The reference's nearest_int, wrap-around and all, as floats.
inline F nearest(F x) { return {nearest_half(x.a), nearest_half(x.b)}; }
inline F truncated(F x) {
  constexpr int mode = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
/// The low bytes of sixteen whole numbers.
inline void store_bytes(uint8_t* p, F x) {
  const __m256i mask = _mm256_set1_epi32(0xff);
  const __m256i a = _mm256_and_si256(_mm256_cvtps_epi32(x.a), mask),
                b = _mm256_and_si256(_mm256_cvtps_epi32(x.b), mask);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

/// Sixteen-entry tables, for the codes of IQ4.
struct Table {
  __m256 low, high;
};
inline Table table(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline I zero_index() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline __m256 lookup_half(Table t, __m256i i) {
  const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(i, 28));  // bit 3 to the sign
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, i), _mm256_permutevar8x32_ps(t.high, i), upper);
}
inline F lookup(Table t, I i) { return {lookup_half(t, i.a), lookup_half(t, i.b)}; }
inline I add_where(M m, I x, int n) {
  const __m256i step = _mm256_set1_epi32(n);
  return {_mm256_add_epi32(x.a, _mm256_and_si256(_mm256_castps_si256(m.a), step)),
          _mm256_add_epi32(x.b, _mm256_and_si256(_mm256_castps_si256(m.b), step))};
}
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

/// For keys of lattices: unsigned numbers of sixteen bits, and tables of four or eight entries that repeat.
inline I load_keys(const uint16_t* p) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)),
          _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1))};
}
inline void store_keys(uint16_t* p, F x) {
  const __m256i words = _mm256_packus_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
}
inline void replace_keys(uint16_t* p, const uint16_t* by, M where) {
  const __m256i lanes = _mm256_packs_epi32(_mm256_castps_si256(where.a), _mm256_castps_si256(where.b));
  auto* to = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(
      to, _mm256_blendv_epi8(_mm256_loadu_si256(to), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(by)),
                             _mm256_permute4x64_epi64(lanes, 0xd8)));
}
inline I shifted_right(I x, int n) {
  const __m256i by = _mm256_set1_epi32(n);
  return {_mm256_srlv_epi32(x.a, by), _mm256_srlv_epi32(x.b, by)};
}
inline F lookup4(F t, I i) { return {_mm256_permutevar_ps(t.a, i.a), _mm256_permutevar_ps(t.b, i.b)}; }  // low two bits
inline F lookup8(F t, I i) { return {_mm256_permutevar8x32_ps(t.a, i.a), _mm256_permutevar8x32_ps(t.b, i.b)}; }
inline F negated(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign)};
}
/// The smallest number, in every lane.
inline F smallest(F x) {
  __m256 v = _mm256_min_ps(x.a, x.b);
  v = _mm256_min_ps(v, _mm256_permute2f128_ps(v, v, 1));
  v = _mm256_min_ps(v, _mm256_permute_ps(v, 0x4e));
  v = _mm256_min_ps(v, _mm256_permute_ps(v, 0xb1));
  return {v, v};
}
/// g++ 12 forgets it in some functions, and narrow code then runs several times slower.
inline void leave_lanes() { _mm256_zeroupper(); }
inline unsigned bits_of(M x) {
  return static_cast<unsigned>(_mm256_movemask_ps(x.a)) | static_cast<unsigned>(_mm256_movemask_ps(x.b)) << 8;
}
inline M mask_of(unsigned bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const auto half = [&](unsigned b) {
    const __m256i all = _mm256_set1_epi32(static_cast<int>(b));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane));
  };
  return {half(bits), half(bits >> 8)};
}

/// out[i] lane j = rows[j][i], i, j < 8.
inline void transpose8(__m256* out, const float* const* rows, int column) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(rows[i] + column);
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; ++k) {
      a[i + 2 * k] = _mm256_shuffle_ps(b[i + k], b[i + k + 2], 0x44);
      a[i + 2 * k + 1] = _mm256_shuffle_ps(b[i + k], b[i + k + 2], 0xee);
    }
  for (int c = 0; c < 4; ++c) {
    out[c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x20);
    out[4 + c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x31);
  }
}
/// out[i] lane j = rows[j][i], i < 16.
inline void transpose(F* out, const float* const* rows) {
  for (int half = 0; half < 2; ++half) {
    __m256 a[8], b[8];
    transpose8(a, rows, 8 * half);
    transpose8(b, rows + 8, 8 * half);
    for (int i = 0; i < 8; ++i) out[8 * half + i] = {a[i], b[i]};
  }
}

#include "fettle_kit/compress/gguf_lanes.inl"

}  // namespace

const RowQuantizers row_quantizers_avx2 = lane_quantizers;

}  // namespace fettle::kit
