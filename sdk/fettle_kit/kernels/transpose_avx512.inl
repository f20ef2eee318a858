// SPDX-License-Identifier: Apache-2.0
// 16 x 16 words of 32 bits, in registers. Included inside the anonymous namespace of each file compiled for AVX-512.

/// Columns 0 ... 15 of the 16 rows given become t0 ... t15: swaps of 32, 64, 128 and 256 bits.
struct Block {
  __m512 r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15;
};

inline __m512 low64(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
inline __m512 high64(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

inline Block transposed(const Block& b) {
  const __m512 a0 = _mm512_unpacklo_ps(b.r0, b.r1), a1 = _mm512_unpackhi_ps(b.r0, b.r1);
  const __m512 a2 = _mm512_unpacklo_ps(b.r2, b.r3), a3 = _mm512_unpackhi_ps(b.r2, b.r3);
  const __m512 a4 = _mm512_unpacklo_ps(b.r4, b.r5), a5 = _mm512_unpackhi_ps(b.r4, b.r5);
  const __m512 a6 = _mm512_unpacklo_ps(b.r6, b.r7), a7 = _mm512_unpackhi_ps(b.r6, b.r7);
  const __m512 a8 = _mm512_unpacklo_ps(b.r8, b.r9), a9 = _mm512_unpackhi_ps(b.r8, b.r9);
  const __m512 a10 = _mm512_unpacklo_ps(b.r10, b.r11), a11 = _mm512_unpackhi_ps(b.r10, b.r11);
  const __m512 a12 = _mm512_unpacklo_ps(b.r12, b.r13), a13 = _mm512_unpackhi_ps(b.r12, b.r13);
  const __m512 a14 = _mm512_unpacklo_ps(b.r14, b.r15), a15 = _mm512_unpackhi_ps(b.r14, b.r15);
  // c[4g + q]: in 128-bit lane l, column 4l + q of rows 4g ... 4g + 3
  const __m512 c0 = low64(a0, a2), c1 = high64(a0, a2), c2 = low64(a1, a3), c3 = high64(a1, a3);
  const __m512 c4 = low64(a4, a6), c5 = high64(a4, a6), c6 = low64(a5, a7), c7 = high64(a5, a7);
  const __m512 c8 = low64(a8, a10), c9 = high64(a8, a10), c10 = low64(a9, a11), c11 = high64(a9, a11);
  const __m512 c12 = low64(a12, a14), c13 = high64(a12, a14), c14 = low64(a13, a15), c15 = high64(a13, a15);
  // lanes {0, 1} and {2, 3} of the upper and lower eight rows, then even and odd lanes
  Block t;
#define FETTLE_COLUMNS(q, ca, cb, cc, cd, t0, t1, t2, t3)                                                     \
  {                                                                                                           \
    const __m512 even_top = _mm512_shuffle_f32x4(ca, cb, 0x88), odd_top = _mm512_shuffle_f32x4(ca, cb, 0xdd); \
    const __m512 even_low = _mm512_shuffle_f32x4(cc, cd, 0x88), odd_low = _mm512_shuffle_f32x4(cc, cd, 0xdd); \
    t.t0 = _mm512_shuffle_f32x4(even_top, even_low, 0x88);                                                    \
    t.t1 = _mm512_shuffle_f32x4(odd_top, odd_low, 0x88);                                                      \
    t.t2 = _mm512_shuffle_f32x4(even_top, even_low, 0xdd);                                                    \
    t.t3 = _mm512_shuffle_f32x4(odd_top, odd_low, 0xdd);                                                      \
  }
  FETTLE_COLUMNS(0, c0, c4, c8, c12, r0, r4, r8, r12)
  FETTLE_COLUMNS(1, c1, c5, c9, c13, r1, r5, r9, r13)
  FETTLE_COLUMNS(2, c2, c6, c10, c14, r2, r6, r10, r14)
  FETTLE_COLUMNS(3, c3, c7, c11, c15, r3, r7, r11, r15)
#undef FETTLE_COLUMNS
  return t;
}
