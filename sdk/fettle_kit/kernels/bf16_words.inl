// SPDX-License-Identifier: Apache-2.0
// Packing of bf16 numbers, two to a word of 32 bits. Included inside the anonymous namespace of files compiled for
// AVX-512 with BF16, after transpose_avx512.inl and
//
//   Pairs                      which two numbers of a slice share a word: low(word) and high(word), word < 16, and
//                              paired(x), the 32 numbers of a slice in the order of their words
//
// A panel is 32 rows of x or 32 columns of w, slice by slice of 32 numbers along the sum, each slice two tiles of 16
// rows of 64 bytes. A row of a tile is 16 words of one row or, by depth, one word of 16 rows.

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
      return _mm512_castsi512_ps(Pairs::paired(_mm512_maskz_loadu_epi16(first32(depth - k), p)));
    } else {
      const __mmask16 left = first16(depth - k), right = first16(depth - k - 16);
      const __m512i row = narrow(_mm512_maskz_loadu_ps(left, p), _mm512_maskz_loadu_ps(right, p + 16));
      return _mm512_castsi512_ps(Pairs::paired(row));
    }
  }
};

/// Word `word` of 16 rows, which lie side by side.
template <class Number>
struct AlongDepth {
  static constexpr bool words_by_depth = true;
  const Number* data;
  ptrdiff_t stride;

  __m512 words(ptrdiff_t i, ptrdiff_t k, ptrdiff_t word, ptrdiff_t rows, ptrdiff_t depth) const {
    const __mmask16 mask = first16(rows - i);
    const ptrdiff_t first = k + Pairs::low(word), second = k + Pairs::high(word);
    const Number* p = data + first * stride + i;
    const Number* q = data + second * stride + i;
    const __mmask16 has_first = first < depth ? mask : __mmask16{0}, has_second = second < depth ? mask : __mmask16{0};
    if constexpr (sizeof(Number) == 2) {
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(has_first, p));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(has_second, q));
      return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    } else {
      const __m512i zipped = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
      const __m512i both = narrow(_mm512_maskz_loadu_ps(has_first, p), _mm512_maskz_loadu_ps(has_second, q));
      return _mm512_castsi512_ps(_mm512_permutexvar_epi16(zipped, both));
    }
  }
};

/// One tile: rows [i, i + 16) and slice k of the source.
template <bool by_depth, class Source>
inline void pack_tile(char* to, const Source& from, ptrdiff_t i, ptrdiff_t k, ptrdiff_t rows, ptrdiff_t depth) {
  const auto row = [&](ptrdiff_t r) {
    if constexpr (Source::words_by_depth)
      return from.words(i, k, r, rows, depth);
    else
      return from.row(i + r, k, rows, depth);
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
