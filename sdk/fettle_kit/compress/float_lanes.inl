// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in the compiler's vector types: included inside the anonymous namespace of one file an instruction set,
// which has defined FLOAT_LANES_WIDTH, the floats of one register, and multiply_add(V, V, V), or FLOAT_LANES_DIVIDE
// where there is no fused multiply-add. Multiply-adds are fused in quotient() alone, whose result is that of a
// division.

constexpr int kWidth = FLOAT_LANES_WIDTH, kParts = 16 / kWidth;
typedef float V __attribute__((vector_size(4 * kWidth)));
typedef int32_t W __attribute__((vector_size(4 * kWidth)));
typedef uint8_t Narrow __attribute__((vector_size(kWidth)));

#define LANES_INLINE static inline __attribute__((always_inline))
// The statements for every part p, which must be a constant for the parts to stay in registers.
#define LANES_PART(number, ...)    \
  if constexpr (number < kParts) { \
    constexpr int p = number;      \
    __VA_ARGS__                    \
  }
#define LANES_EACH(...)      \
  LANES_PART(0, __VA_ARGS__) \
  LANES_PART(1, __VA_ARGS__) \
  LANES_PART(2, __VA_ARGS__) \
  LANES_PART(3, __VA_ARGS__)

struct F {
  V v[kParts];
};
struct I {
  W v[kParts];
};

LANES_INLINE F load(const float* x) {
  F a;
  LANES_EACH(__builtin_memcpy(&a.v[p], x + p * kWidth, sizeof(V));)
  return a;
}
LANES_INLINE void store(float* out, F a) { LANES_EACH(__builtin_memcpy(out + p * kWidth, &a.v[p], sizeof(V));) }
LANES_INLINE F all(float x) {
  F a;
  LANES_EACH(a.v[p] = V{} + x;)
  return a;
}
LANES_INLINE I all_bits(int32_t x) {
  I a;
  LANES_EACH(a.v[p] = W{} + x;)
  return a;
}
LANES_INLINE I bits(F a) {
  I b;
  LANES_EACH(b.v[p] = reinterpret_cast<W>(a.v[p]);)
  return b;
}
LANES_INLINE F floats(I a) {
  F b;
  LANES_EACH(b.v[p] = reinterpret_cast<V>(a.v[p]);)
  return b;
}
LANES_INLINE F operator+(F a, F b) {
  LANES_EACH(a.v[p] = a.v[p] + b.v[p];)
  return a;
}
LANES_INLINE F operator-(F a, F b) {
  LANES_EACH(a.v[p] = a.v[p] - b.v[p];)
  return a;
}
LANES_INLINE F operator*(F a, F b) {
  LANES_EACH(a.v[p] = a.v[p] * b.v[p];)
  return a;
}
LANES_INLINE F operator/(F a, F b) {
  LANES_EACH(a.v[p] = a.v[p] / b.v[p];)
  return a;
}
LANES_INLINE F magnitude_of(F a) {
  I b = bits(a);
  LANES_EACH(b.v[p] = b.v[p] & 0x7fffffff;)
  return floats(b);
}
LANES_INLINE F least(F a, float b) {  // b if a is NaN
  LANES_EACH(a.v[p] = a.v[p] < b ? a.v[p] : V{} + b;)
  return a;
}
LANES_INLINE I greatest(I a, I b) {
  LANES_EACH(a.v[p] = a.v[p] > b.v[p] ? a.v[p] : b.v[p];)
  return a;
}
/// The low bytes of lanes of 0 to 255.
LANES_INLINE __m128i bytes_of(I a) {
#if FLOAT_LANES_WIDTH == 16
  return _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(a.v[0]));
#elif FLOAT_LANES_WIDTH == 8
  const __m256i packed = _mm256_packs_epi32(reinterpret_cast<__m256i>(a.v[0]), reinterpret_cast<__m256i>(a.v[1]));
  const __m256i ordered = _mm256_permute4x64_epi64(packed, 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
#else
  return _mm_packus_epi16(_mm_packs_epi32(reinterpret_cast<__m128i>(a.v[0]), reinterpret_cast<__m128i>(a.v[1])),
                          _mm_packs_epi32(reinterpret_cast<__m128i>(a.v[2]), reinterpret_cast<__m128i>(a.v[3])));
#endif
}
LANES_INLINE void store_bytes(uint8_t* out, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes_of(a)); }
/// Lanes of 0 to 15 as eight bytes, the even lane in the low half.
LANES_INLINE void store_nibbles(uint8_t* out, I a) {
  const __m128i bytes = bytes_of(a);
  const __m128i pairs = _mm_and_si128(_mm_or_si128(bytes, _mm_srli_epi16(bytes, 4)), _mm_set1_epi16(0xff));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(pairs, pairs));
}

/// The upper lanes of a part moved down by `by`; what comes in from above does not matter.
template <int by, class Part>
LANES_INLINE Part down(Part a) {
  W from;
  for (int i = 0; i < kWidth; ++i) from[i] = (i + by) % kWidth;
  return __builtin_shuffle(a, from);
}

/// Largest of the lanes, which are not negative.
LANES_INLINE int32_t largest(I a) {
  W most = a.v[0];
  for (int p = 1; p < kParts; ++p) most = a.v[p] > most ? a.v[p] : most;
  W other;
  if (kWidth > 8) other = down<8>(most), most = other > most ? other : most;
  if (kWidth > 4) other = down<4>(most), most = other > most ? other : most;
  other = down<2>(most), most = other > most ? other : most;
  other = down<1>(most), most = other > most ? other : most;
  return most[0];
}
/// 8 + 8, 4 + 4, 2 + 2, 1 + 1.
LANES_INLINE float sum(F a) {
  for (int half = kParts / 2; half > 0; half /= 2)
    for (int p = 0; p < half; ++p) a.v[p] = a.v[p] + a.v[p + half];
  V total = a.v[0];
  if (kWidth > 8) total = total + down<8>(total);
  if (kWidth > 4) total = total + down<4>(total);
  total = total + down<2>(total);
  total = total + down<1>(total);
  return total[0];
}

/// What x is divided by, and how.
struct Divisor {
  F scale, reciprocal;
  bool fused;  ///< far from the ends of the range, so that no step of quotient() over- or underflows
};
LANES_INLINE Divisor divisor_of(float scale) {
#ifdef FLOAT_LANES_DIVIDE
  return {all(scale), all(0), false};
#else
  return {all(scale), all(1 / scale), scale > 0x1p-80f && scale < 0x1p80f};
#endif
}
/// x / scale: the product with the reciprocal, corrected by its remainder (Markstein 1990, theorem 2). Differs from the
/// division only where both are rounded to the same code: NaN and infinity, and magnitudes beyond 2^40 or below 2^-40.
LANES_INLINE F quotient(F x, const Divisor& d) {
#ifdef FLOAT_LANES_DIVIDE
  return x / d.scale;
#else
  if (!d.fused) return x / d.scale;
  F q = x * d.reciprocal;
  LANES_EACH(const V remainder = multiply_add(-q.v[p], d.scale.v[p], x.v[p]);
             q.v[p] = multiply_add(remainder, d.reciprocal.v[p], q.v[p]);)
  return q;
#endif
}

/// Codes without sign of |x| <= the largest number of the grid: a float with `mantissa` bits and this bias, subnormals
/// included, to nearest, ties to even.
template <int mantissa, int bias>
LANES_INLINE I grid_code(F magnitude) {
  // Adding 2^23 units rounds to whole units; a unit is 2^(1 - bias - mantissa).
  constexpr int32_t magic = (127 + 23 + 1 - bias - mantissa) << 23;
  const I small = bits(magnitude + floats(all_bits(magic)));
  I m = bits(magnitude);
  LANES_EACH(const W normal =
                 (m.v[p] + ((1 << (22 - mantissa)) - 1 - ((127 - bias) << 23)) + ((m.v[p] >> (23 - mantissa)) & 1)) >>
                 (23 - mantissa);
             m.v[p] = m.v[p] >= ((127 - bias + 1) << 23) ? normal : small.v[p] - magic;)
  return m;
}

/// Magnitudes of E2M1 codes 0..7.
LANES_INLINE F e2m1_value(I code) {
  F value;
  LANES_EACH(const W normal = (code.v[p] << 22) + (126 << 23); const V v = reinterpret_cast<V>(normal);
             value.v[p] = code.v[p] < 2 ? __builtin_convertvector(code.v[p], V) * 0.5f : v;)
  return value;
}

/// A quotient's magnitude up to 6 as E2M1 codes.
LANES_INLINE I e2m1_code(F quotient) { return grid_code<1, 1>(least(magnitude_of(quotient), 6.0f)); }

uint32_t magnitude(const float* x, size_t n) {
  I most = {};
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    most = greatest(most, bits(magnitude_of(load(x + i))));
  }
  int32_t result = largest(most);
  for (; i < n; ++i) {
    int32_t m;
    __builtin_memcpy(&m, x + i, sizeof m);
    m &= 0x7fffffff;
    result = m > result ? m : result;
  }
  return static_cast<uint32_t>(result);
}

/// Codes of magnitudes.
LANES_INLINE I e4m3_code(F quotient) { return grid_code<3, 7>(least(magnitude_of(quotient), 448.0f)); }

/// Magnitudes of E4M3 codes 0..0x7e.
LANES_INLINE F e4m3_value(I code) {
  F value;
  LANES_EACH(const W normal = (code.v[p] << 20) + (120 << 23); const V v = reinterpret_cast<V>(normal);
             value.v[p] = code.v[p] < 8 ? __builtin_convertvector(code.v[p], V) * 0x1p-9f : v;)
  return value;
}

LANES_INLINE I e4m3_codes(F x, const Divisor& scale, F& errors) {
  I code = e4m3_code(quotient(x, scale));
  const F d = magnitude_of(x) - e4m3_value(code) * scale.scale;
  errors = errors + d * d;
  const I sign = bits(x);
  LANES_EACH(code.v[p] = code.v[p] | ((sign.v[p] >> 24) & 0x80);)
  return code;
}

float e4m3(const float* x, size_t n, float scale, uint8_t* codes) {
  const Divisor divisor = divisor_of(scale);
  F errors = all(0);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) store_bytes(codes + i, e4m3_codes(load(x + i), divisor, errors));
  if (i < n) {
    float rest[16] = {};
    uint8_t last[16];
    __builtin_memcpy(rest, x + i, (n - i) * sizeof(float));
    store_bytes(last, e4m3_codes(load(rest), divisor, errors));
    __builtin_memcpy(codes + i, last, n - i);
  }
  return sum(errors);
}

float squares(const float* x, size_t n) {
  F total = all(0);
  for (size_t i = 0; i < n; i += 16) {
    float rest[16] = {};
    if (i + 16 > n) __builtin_memcpy(rest, x + i, (n - i) * sizeof(float));
    const F v = load(i + 16 > n ? rest : x + i);
    total = total + v * v;
  }
  return sum(total);
}

void e4m3_quotients(const uint8_t* codes, size_t n, float divisor, float* out) {
  for (size_t i = 0; i < n; i += 16) {
    F value;
    LANES_EACH(Narrow narrow; __builtin_memcpy(&narrow, codes + i + p * kWidth, sizeof narrow);
               const W code = __builtin_convertvector(narrow, W); const W normal = (code << 20) + (120 << 23);
               const V v = reinterpret_cast<V>(normal);
               value.v[p] = code < 8 ? __builtin_convertvector(code, V) * 0x1p-9f : v;)
    value = value / all(divisor);
    store(out + i, value);
  }
}

float e2m1(const float* x, size_t blocks, size_t block, const float* scales, uint8_t* packed) {
  F errors = all(0);
  for (size_t b = 0; b < blocks; ++b) {
    const Divisor scale = divisor_of(scales[b]);
    for (size_t i = 0; i < block; i += 16) {
      const F v = load(x + b * block + i);
      I code = e2m1_code(quotient(v, scale));
      const F d = magnitude_of(v) - e2m1_value(code) * scale.scale;
      errors = errors + d * d;
      const I sign = bits(v);
      LANES_EACH(code.v[p] = code.v[p] > 0 ? code.v[p] | ((sign.v[p] >> 28) & 8) : code.v[p];)
      store_nibbles(packed + (b * block + i) / 2, code);
    }
  }
  return sum(errors);
}

void e2m1_errors(const float* x, size_t blocks, size_t block, const float* scales, float* errors) {
  for (size_t b = 0; b < blocks; ++b) {
    const Divisor scale = divisor_of(scales[b]);
    F total = all(0);
    for (size_t i = 0; i < block; i += 16) {
      const F v = load(x + b * block + i);
      const F d = magnitude_of(v) - e2m1_value(e2m1_code(quotient(v, scale))) * scale.scale;
      total = total + d * d;
    }
    errors[b] = sum(total);
  }
}

void e2m1_candidates(const float* x, const float* scales, size_t count, const float* hessian, float* errors) {
  for (size_t c = 0; c < count; c += 16) {
    const F scale = load(scales + c);
    F d[16], total = all(0);
    for (int i = 0; i < 16; ++i) {
      const F v = all(x[i] < 0 ? -x[i] : x[i]);
      d[i] = v - e2m1_value(e2m1_code(v / scale)) * scale;
      if (x[i] < 0) d[i] = all(0) - d[i];
    }
    for (int i = 0; i < 16; ++i) {
      F product = d[i];
      if (hessian != nullptr) {
        product = all(0);
        for (int j = 0; j < 16; ++j) product = product + d[j] * all(hessian[i * 16 + j]);
      }
      total = total + d[i] * product;
    }
    store(errors + c, total);
  }
}

void block_magnitudes(const float* x, size_t blocks, size_t block, float* magnitudes) {
  for (size_t b = 0; b < blocks; ++b) {
    I most = {};
    for (size_t i = 0; i < block; i += 16) most = greatest(most, bits(magnitude_of(load(x + b * block + i))));
    const int32_t result = largest(most);
    __builtin_memcpy(magnitudes + b, &result, sizeof result);
  }
}

#undef LANES_INLINE
#undef LANES_EACH
#undef LANES_PART
