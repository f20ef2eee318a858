// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_lanes.h"
#include "fettle_kit/tensor/block_layout.h"
#include "fettle_kit/tensor/lattice_layout.h"
#include "fettle_kit/tensor/lattice_search.h"

#include <immintrin.h>
#include <stddef.h>

namespace fettle::kit {
namespace {

/// Sixteen floats, one a sub-block.
struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct M {
  __mmask16 v;
};

inline F set(float a) { return {_mm512_set1_ps(a)}; }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F sqrt_of(F a) { return {_mm512_sqrt_ps(a.v)}; }
inline F abs_of(F a) { return {_mm512_abs_ps(a.v)}; }
inline F min_of(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }  // a < b ? a : b
inline F max_of(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }  // a > b ? a : b
inline M operator<(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline M operator>(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline M operator>=(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline M operator==(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline M operator&(M a, M b) { return {static_cast<__mmask16>(a.v & b.v)}; }
inline M operator|(M a, M b) { return {static_cast<__mmask16>(a.v | b.v)}; }
inline M operator~(M a) { return {static_cast<__mmask16>(~a.v)}; }
inline bool any(M a) { return a.v != 0; }
inline F select(M m, F yes, F no) { return {_mm512_mask_blend_ps(m.v, no.v, yes.v)}; }

/// The reference's nearest_int, wrap-around and all, as floats.
inline F nearest(F a) {
  const __m512i bits = _mm512_castps_si512(_mm512_add_ps(a.v, _mm512_set1_ps(12582912.0f)));
  const __m512i low = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff));
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(low, _mm512_set1_epi32(0x400000)))};
}
inline F truncated(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)}; }
/// The low bytes of sixteen whole numbers.
inline void store_bytes(uint8_t* p, F a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

/// Sixteen-entry tables, for the codes of IQ4.
struct Table {
  __m512 v;
};
inline Table table(const float* p) { return {_mm512_loadu_ps(p)}; }
inline I zero_index() { return {_mm512_setzero_si512()}; }
inline F lookup(Table t, I i) { return {_mm512_permutexvar_ps(i.v, t.v)}; }
inline I add_where(M m, I a, int n) { return {_mm512_mask_add_epi32(a.v, m.v, a.v, _mm512_set1_epi32(n))}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }

/// For keys of lattices: unsigned numbers of sixteen bits, and tables of four or eight entries that repeat.
inline I load_keys(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_keys(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(a.v)));
}
inline void replace_keys(uint16_t* p, const uint16_t* by, M where) {
  _mm256_mask_storeu_epi16(p, where.v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(by)));
}
inline I shifted_right(I a, int n) { return {_mm512_srlv_epi32(a.v, _mm512_set1_epi32(n))}; }
inline F lookup4(F entries, I i) { return {_mm512_permutevar_ps(entries.v, i.v)}; }   // of the low two bits
inline F lookup8(F entries, I i) { return {_mm512_permutexvar_ps(i.v, entries.v)}; }  // of the low three
inline F negated(F a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
/// The smallest number, in every lane.
inline F smallest(F a) {
  __m512 v = _mm512_min_ps(a.v, _mm512_shuffle_f32x4(a.v, a.v, 0x4e));
  v = _mm512_min_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  v = _mm512_min_ps(v, _mm512_permute_ps(v, 0x4e));
  return {_mm512_min_ps(v, _mm512_permute_ps(v, 0xb1))};
}
/// g++ 12 forgets it in some functions, and narrow code then runs several times slower.
inline void leave_lanes() { _mm256_zeroupper(); }
inline unsigned bits_of(M a) { return a.v; }
inline M mask_of(unsigned bits) { return {static_cast<__mmask16>(bits)}; }

/// out[i] lane j = rows[j][i], i < 16.
inline void transpose(F* out, const float* const* rows) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(rows[i]);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int k = 0; k < 2; ++k) {
      const __m512d lo = _mm512_castps_pd(b[i + k]), hi = _mm512_castps_pd(b[i + k + 2]);
      a[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi));
      a[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi));
    }
  // a[4r + c]: in each 128-bit part p, rows 4r .. 4r+3 of column 4p + c
  for (int c = 0; c < 4; ++c) {
    const __m512 low01 = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88),
                 high01 = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
    const __m512 low23 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88),
                 high23 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
    out[c].v = _mm512_shuffle_f32x4(low01, low23, 0x88);
    out[8 + c].v = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    out[4 + c].v = _mm512_shuffle_f32x4(high01, high23, 0x88);
    out[12 + c].v = _mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
}

#include "fettle_kit/compress/gguf_lanes.inl"

}  // namespace

const RowQuantizers row_quantizers_avx512 = lane_quantizers;

}  // namespace fettle::kit
