// SPDX-License-Identifier: Apache-2.0
// The quantizers of tensor/block_codec.cpp with sixteen sub-blocks in sixteen lanes. Every lane performs the operations of
// the reference in its order, so the bytes are the same; the latency of the long chains of adds is shared by sixteen.
// Included inside the anonymous namespace of a file that has defined F, I, M and their operations; see block_search.cpp
// for what the searches do. A block is quantized in a batch of sixteen; at the end of the data the last block fills up.

constexpr int kLanes = 16;
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
constexpr float kNegligible = 1e-15f;

inline float max_float(float a, float b) { return a > b ? a : b; }

/// 0, or 1 / d.
inline F reciprocal(F d) { return select(d == set(0), set(0), set(1) / d); }

struct Batch {
  const float* x[kLanes];
  const float* q[kLanes];  ///< importance of the columns of the block; unset if there is none
};

/// Blocks first .. first + 15 of `elems` weights each; the last block again beyond the end.
inline Batch batch_of(const float* x, const float* q, int64_t cols, int64_t first, int64_t blocks, int elems) {
  Batch b;
  for (int j = 0; j < kLanes; ++j) {
    const int64_t block = first + j < blocks ? first + j : blocks - 1;
    b.x[j] = x + block * elems;
    b.q[j] = q ? q + block * elems % cols : b.x[j];
  }
  return b;
}

/// tile[i] lane j = element i of sub-block j, for n elements (a multiple of 16).
inline void load_tile(F* tile, const float* const* rows, int n) {
  const float* at[kLanes];
  for (int i = 0; i < n; i += 16) {
    for (int j = 0; j < kLanes; ++j) at[j] = rows[j] + i;
    transpose(tile + i, at);
  }
}

/// The sixteen sub-blocks of group g, where `per_block` sub-blocks of n weights make a block.
inline void load_group(F* tile, const float* const* blocks, int g, int per_block, int n) {
  const float* rows[kLanes];
  for (int j = 0; j < kLanes; ++j) {
    const int flat = g * kLanes + j;
    rows[j] = blocks[flat / per_block] + flat % per_block * n;
  }
  load_tile(tile, rows, n);
}

/// Sum of squares of n weights from each row, in index order.
inline F sums_of_squares(const float* const* rows, int64_t n) {
  F sum = set(0), tile[16];
  const float* at[kLanes];
  for (int64_t i = 0; i < n; i += 16) {
    for (int j = 0; j < kLanes; ++j) at[j] = rows[j] + i;
    transpose(tile, at);
    for (int k = 0; k < 16; ++k) sum = sum + tile[k] * tile[k];
  }
  return sum;
}

/// Bytes of sixteen rows of sixteen, rows and columns swapped.
inline void transpose_bytes(uint8_t* out, ptrdiff_t stride, const uint8_t* in) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 16 * i));
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + stride * i), a[i]);
}

/// codes[j * n + i] = level[i] lane j.
template <int n>
inline void store_codes(uint8_t* codes, const F* level) {
  uint8_t bytes[n * kLanes];
  for (int i = 0; i < n; ++i) store_bytes(bytes + i * kLanes, level[i]);
  for (int i = 0; i < n; i += 16) transpose_bytes(codes + i, n, bytes + i * kLanes);
}

/// The element of largest magnitude with its sign, the first on ties.
inline F signed_extreme(int n, const F* x) {
  F amax = set(0), max = set(0);
  for (int i = 0; i < n; ++i) {
    const F a = abs_of(x[i]);
    const M larger = a > amax;
    amax = select(larger, a, amax);
    max = select(larger, x[i], max);
  }
  return max;
}

inline F rounded(F v) { return (v + set(kMagic)) - set(kMagic); }  // for |v| < 2^22
inline F clamped(F v, float low, float high) { return max_of(min_of(v, set(high)), set(low)); }

/// For v >= 0.
inline F rounded_up(F v) {
  const F whole = truncated(v);
  return select(whole < v, whole + set(1), whole);
}

/// Half away from zero, for |v| < 2^22.
inline F rounded_away(F v) {
  const F whole = truncated(v);
  const F step = select(v < set(0), set(-1), set(1));
  return select(abs_of(v - whole) >= set(0.5f), whole + step, whole);
}

// ---- searches ---------------------------------------------------------------------------------------------------------

struct Symmetric {
  F scale, inverse;  ///< codes are clamp(nearest(inverse * x), -nmax, nmax - 1) + nmax; inverse 0: all codes 0
};

inline F symmetric_level(F inverse, F x, int nmax) {
  return clamped(rounded(inverse * x), static_cast<float>(-nmax), static_cast<float>(nmax - 1));
}

/// w null: weights x*x.
template <int n, int nmax>
inline Symmetric search_symmetric(const F* x, const F* w) {
  const F max = signed_extreme(n, x);
  const M dead = abs_of(max) < set(kNegligible);
  const F divisor = select(dead, set(1), max);
  F weight[n], product[n];
  for (int i = 0; i < n; ++i) {
    weight[i] = w ? w[i] : x[i] * x[i];
    product[i] = weight[i] * x[i];
  }
  F sumlx = set(0), suml2 = set(0);
  const auto sums = [&](F inverse) {
    sumlx = suml2 = set(0);
    for (int i = 0; i < n; ++i) {
      const F l = symmetric_level(inverse, x[i], nmax);
      sumlx = sumlx + product[i] * l;
      suml2 = suml2 + weight[i] * l * l;
    }
  };
  F inverse = set(static_cast<float>(-nmax)) / divisor;
  sums(inverse);
  F scale = select(suml2 == set(0), set(0), sumlx / suml2);
  F best = scale * sumlx;
  for (int k = -9; k <= 9; ++k) {
    if (k == 0) continue;
    const F candidate = set(-(static_cast<float>(nmax) + 0.1f * static_cast<float>(k))) / divisor;
    sums(candidate);
    const M better = (suml2 > set(0)) & (sumlx * sumlx > best * suml2);
    if (!any(better)) continue;
    inverse = select(better, candidate, inverse);
    scale = select(better, sumlx / suml2, scale);
    best = select(better, scale * sumlx, best);
  }
  return {select(dead, set(0), scale), select(dead, set(0), inverse)};
}

/// Codes of the search; a dead lane has code 0, not nmax.
inline F symmetric_code(const Symmetric& found, F x, int nmax) {
  const F code = symmetric_level(found.inverse, x, nmax) + set(static_cast<float>(nmax));
  return select(found.inverse == set(0), set(0), code);
}

/// Weights x*x; writes the codes, because they are improved one by one.
template <int n, int nmax>
inline F search_coordinate(const F* x, F* codes) {
  const F max = signed_extreme(n, x);
  const M dead = abs_of(max) < set(kNegligible);
  const F inverse = set(static_cast<float>(-nmax)) / select(dead, set(1), max);
  F weight[n], product[n], level[n];
  F sumlx = set(0), suml2 = set(0);
  for (int i = 0; i < n; ++i) {
    weight[i] = x[i] * x[i];
    product[i] = weight[i] * x[i];
    level[i] = symmetric_level(inverse, x[i], nmax);
    sumlx = sumlx + product[i] * level[i];
    suml2 = suml2 + weight[i] * level[i] * level[i];
  }
  for (int pass = 0; pass < 5; ++pass) {
    bool changed = false;
    for (int i = 0; i < n; ++i) {
      F slx = sumlx - product[i] * level[i];
      const M positive = slx > set(0);
      F sl2 = suml2 - weight[i] * level[i] * level[i];
      const F candidate = clamped(nearest(x[i] * sl2 / slx), static_cast<float>(-nmax), static_cast<float>(nmax - 1));
      slx = slx + product[i] * candidate;
      sl2 = sl2 + weight[i] * candidate * candidate;
      const M better = positive & ~(candidate == level[i]) & (sl2 > set(0)) & (slx * slx * suml2 > sumlx * sumlx * sl2);
      if (!any(better)) continue;
      level[i] = select(better, candidate, level[i]);
      sumlx = select(better, slx, sumlx);
      suml2 = select(better, sl2, suml2);
      changed = true;
    }
    if (!changed) break;
  }
  for (int i = 0; i < n; ++i) codes[i] = select(dead, set(0), level[i] + set(static_cast<float>(nmax)));
  return select(dead | ~(suml2 > set(0)), set(0), sumlx / suml2);
}

struct Steps {
  float first, step;
  int count;
  bool absolute;
};

struct Asymmetric {
  F scale, min;     ///< x ~ scale * code + min, min <= 0
  F inverse, base;  ///< codes are clamp(nearest(inverse * (x - base)), 0, nmax)
};

inline F asymmetric_code(const Asymmetric& found, F x, int nmax) {
  return clamped(nearest(found.inverse * (x - found.base)), 0, static_cast<float>(nmax));
}

/// How the codes of a candidate may be computed: without a clamp, with one, or with the reference's wrap-around.
enum class Range { inside, clamp, wild };

template <int n, int nmax, Range range>
inline void asymmetric_sums(const F* x, const F* w, F inverse, F base, F* level, F& sum_l, F& sum_l2, F& sum_xl) {
  sum_l = sum_l2 = sum_xl = set(0);
  for (int i = 0; i < n; ++i) {
    F l = inverse * (x[i] - base);
    l = range == Range::wild ? nearest(l) : rounded(l);
    if (range != Range::inside) l = clamped(l, 0, static_cast<float>(nmax));
    level[i] = l;
    const F wl = w[i] * l;
    sum_l = sum_l + wl;
    sum_l2 = sum_l2 + wl * l;
    sum_xl = sum_xl + wl * x[i];
  }
}

template <int n, bool absolute>
inline F asymmetric_error(const F* x, const F* w, const F* level, F scale, F min) {
  F sum = set(0);
  for (int i = 0; i < n; ++i) {
    const F diff = scale * level[i] + min - x[i];
    sum = sum + w[i] * (absolute ? abs_of(diff) : diff * diff);
  }
  return sum;
}

template <int n, int nmax, bool absolute>
inline Asymmetric search_asymmetric(const F* x, const F* w, float first, float step, int count) {
  constexpr auto top = static_cast<float>(nmax);
  F min = x[0], max = x[0], sum_w = w[0], sum_x = w[0] * x[0];
  for (int i = 1; i < n; ++i) {
    min = min_of(x[i], min);
    max = max_of(x[i], max);
    sum_w = sum_w + w[i];
    sum_x = sum_x + w[i] * x[i];
  }
  const F lowest = min;
  min = select(min > set(0), set(0), min);
  const M alive = max > min;
  F inverse = select(alive, set(top) / (max - min), set(0));
  Asymmetric found{set(1) / inverse, min, inverse, min};
  F level[n], sum_l, sum_l2, sum_xl;
  asymmetric_sums<n, nmax, Range::clamp>(x, w, inverse, min, level, sum_l, sum_l2, sum_xl);
  F best = asymmetric_error<n, absolute>(x, w, level, found.scale, min);

  for (int k = 0; k <= count; ++k) {
    const float offset = first + step * static_cast<float>(k);
    const F base = found.min;
    inverse = select(alive, set(offset + top) / (max - base), set(0));
    const F reach = abs_of(inverse) * max_of(abs_of(max - base), abs_of(lowest - base));
    if (any(~(reach < set(4194304.0f)) & alive)) {
      asymmetric_sums<n, nmax, Range::wild>(x, w, inverse, base, level, sum_l, sum_l2, sum_xl);
    } else if (offset > 0.45f || any(((lowest < base) | (inverse < set(0))) & alive)) {
      asymmetric_sums<n, nmax, Range::clamp>(x, w, inverse, base, level, sum_l, sum_l2, sum_xl);
    } else {
      asymmetric_sums<n, nmax, Range::inside>(x, w, inverse, base, level, sum_l, sum_l2, sum_xl);
    }
    const F determinant = sum_w * sum_l2 - sum_l * sum_l;
    const M solvable = (determinant > set(0)) & alive;
    if (!any(solvable)) continue;
    F trial_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    F trial_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    const M above = trial_min > set(0);
    trial_min = select(above, set(0), trial_min);
    trial_scale = select(above, sum_xl / sum_l2, trial_scale);
    const F error = asymmetric_error<n, absolute>(x, w, level, trial_scale, trial_min);
    const M better = solvable & (error < best);
    if (!any(better)) continue;
    best = select(better, error, best);
    found.scale = select(better, trial_scale, found.scale);
    found.min = select(better, trial_min, found.min);
    found.inverse = select(better, inverse, found.inverse);
    found.base = select(better, base, found.base);
  }
  found.scale = select(alive, found.scale, set(0));
  return found;
}

/// x ~ scale * codes. `negative`: some x may be, see block_search.h.
template <int n, int nmax, bool negative = false>
inline F search_positive(const F* x, const F* w, F* codes) {
  constexpr auto top = static_cast<float>(nmax);
  F max = set(0);
  for (int i = 0; i < n; ++i) max = max_of(x[i], max);
  const M dead = max < set(kNegligible);
  const F divisor = select(dead, set(1), max);
  const auto as_byte = [](F l) {  // modulo 256
    return negative ? select(l < set(0), l + set(256) * rounded_up(set(0) - l * set(1.0f / 256)), l) : l;
  };
  const auto error = [&](F inverse, bool limited) {
    const F scale = set(1) / inverse;
    F sum = set(0);
    for (int i = 0; i < n; ++i) {
      F l = nearest(inverse * x[i]);
      l = limited ? min_of(l, set(top)) : as_byte(l);
      const F diff = x[i] - scale * l;
      sum = sum + w[i] * diff * diff;
    }
    return sum;
  };
  F inverse = set(top) / divisor;
  F best = error(inverse, false);
  for (int k = -4; k <= 4; ++k) {
    if (k == 0) continue;
    const F candidate = set(0.1f * static_cast<float>(k) + top) / divisor;
    const F trial = error(candidate, true);
    const M better = trial < best;
    best = select(better, trial, best);
    inverse = select(better, candidate, inverse);
  }
  F sumlx = set(0), suml2 = set(0);
  for (int i = 0; i < n; ++i) {
    const F l = min_of(nearest(inverse * x[i]), set(top));
    codes[i] = as_byte(l);
    sumlx = sumlx + w[i] * x[i] * l;
    suml2 = suml2 + w[i] * l * l;
  }
  for (int pass = 0; pass < 5; ++pass) {
    bool changed = false;
    for (int i = 0; i < n; ++i) {
      F slx = sumlx - w[i] * x[i] * codes[i];
      F sl2 = suml2 - w[i] * codes[i] * codes[i];
      const M positive = (slx > set(0)) & (sl2 > set(0));
      const F candidate = min_of(nearest(x[i] * sl2 / slx), set(top));
      slx = slx + w[i] * x[i] * candidate;
      sl2 = sl2 + w[i] * candidate * candidate;
      const M better = positive & ~(candidate == codes[i]) & (slx * slx * suml2 > sumlx * sumlx * sl2);
      if (!any(better)) continue;
      codes[i] = select(better, as_byte(candidate), codes[i]);
      sumlx = select(better, slx, sumlx);
      suml2 = select(better, sl2, suml2);
      changed = true;
    }
    if (!changed) break;
  }
  for (int i = 0; i < n; ++i) codes[i] = select(dead, set(0), codes[i]);
  return select(dead | ~(suml2 > set(0)), set(0), sumlx / suml2);
}

// ---- 32 weights, one scale --------------------------------------------------------------------------------------------

/// Calls block(j, codes, values) for each block of the batch that exists; codes [n] in order.
template <int n, class Block>
inline void for_blocks(const F* level, int64_t first, int64_t blocks, const Block& block) {
  uint8_t codes[n * kLanes];
  store_codes<n>(codes, level);
  for (int j = 0; j < kLanes && first + j < blocks; ++j) block(j, codes + n * j);
}

/// importance * sqrt(sigma2 + x^2)
inline void weigh(int n, const F* x, const F* q, F sigma2, F* w) {
  for (int i = 0; i < n; ++i) w[i] = q[i] * sqrt_of(sigma2 + x[i] * x[i]);
}

/// The mean square of the row of each block of a batch. Rows follow one another in batches, so most are known already.
class RowSigma {
 public:
  RowSigma(const float* x, int64_t rows, int64_t cols) : x_(x), rows_(rows), cols_(cols) {}
  F of(int64_t first_block, int64_t blocks, int elems) {
    float sigma[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      const int64_t block = first_block + j < blocks ? first_block + j : blocks - 1;
      sigma[j] = row(block * elems / cols_);
    }
    return load(sigma);
  }

 private:
  float row(int64_t r) {
    if (r >= first_ + kLanes || first_ < 0) {
      first_ = r;
      const float* rows[kLanes];
      for (int j = 0; j < kLanes; ++j) rows[j] = x_ + (r + j < rows_ ? r + j : rows_ - 1) * cols_;
      store(sigma_, sums_of_squares(rows, cols_) / set(static_cast<float>(cols_)));
    }
    return sigma_[r - first_];
  }
  const float* x_;
  int64_t rows_, cols_, first_ = -1;
  float sigma_[kLanes];
};

template <int nmax>
void quantize_q45_0(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  constexpr int size = nmax == 8 ? 18 : 22;
  const int64_t blocks = rows * cols / 32;
  RowSigma sigma(x, rows, cols);
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 32);
    F tile[32], code[32];
    float scales[kLanes];
    load_tile(tile, batch.x, 32);
    if (importance) {
      F w[32];
      load_tile(code, batch.q, 32);
      weigh(32, tile, code, sigma.of(first, blocks, 32), w);
      const Symmetric found = search_symmetric<32, nmax>(tile, w);
      for (int i = 0; i < 32; ++i) code[i] = symmetric_code(found, tile[i], nmax);
      store(scales, found.scale);
    } else {
      const F d = signed_extreme(32, tile) / set(static_cast<float>(-nmax));
      const F inverse = reciprocal(d);
      for (int i = 0; i < 32; ++i)
        code[i] = min_of(truncated(tile[i] * inverse + set(static_cast<float>(nmax) + 0.5f)), set(2 * nmax - 1));
      store(scales, d);
    }
    for_blocks<32>(code, first, blocks, [&](int j, const uint8_t* codes) {
      uint8_t* to = out + (first + j) * size;
      block::put_half(to, scales[j]);
      if (nmax == 16) block::pack_fifth_bits(to + 2, codes);
      block::pack_nibbles(to + size - 16, codes, 32);
    });
  }
}

template <int nmax>
void quantize_q45_1(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  constexpr int size = nmax == 15 ? 20 : 24;
  const int64_t blocks = rows * cols / 32;
  RowSigma sigma(x, rows, cols);
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 32);
    F tile[32], code[32];
    float scales[kLanes], mins[kLanes];
    load_tile(tile, batch.x, 32);
    if (importance) {
      F w[32];
      load_tile(code, batch.q, 32);
      weigh(32, tile, code, sigma.of(first, blocks, 32), w);
      const Asymmetric found = search_asymmetric<32, nmax, false>(tile, w, -0.9f, 0.05f, 36);
      for (int i = 0; i < 32; ++i) code[i] = asymmetric_code(found, tile[i], nmax);
      store(scales, found.scale);
      store(mins, set(0) - (set(0) - found.min));  // the reference negates twice: -0 becomes 0
    } else {
      F min = tile[0], max = tile[0];
      for (int i = 1; i < 32; ++i) {
        min = min_of(tile[i], min);
        max = max_of(tile[i], max);
      }
      const F d = (max - min) / set(static_cast<float>(nmax));
      const F inverse = reciprocal(d);
      for (int i = 0; i < 32; ++i) {
        code[i] = truncated((tile[i] - min) * inverse + set(0.5f));
        if (nmax == 15) code[i] = min_of(code[i], set(15));
      }
      store(scales, d);
      store(mins, min);
    }
    for_blocks<32>(code, first, blocks, [&](int j, const uint8_t* codes) {
      uint8_t* to = out + (first + j) * size;
      block::put_half(to, scales[j]);
      block::put_half(to + 2, mins[j]);
      if (nmax == 31) block::pack_fifth_bits(to + 4, codes);
      block::pack_nibbles(to + size - 16, codes, 32);
    });
  }
}

void quantize_q8_0(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float*) {
  const int64_t blocks = rows * cols / 32;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, nullptr, cols, first, blocks, 32);
    F tile[32];
    float scales[kLanes];
    load_tile(tile, batch.x, 32);
    F amax = set(0);
    for (int i = 0; i < 32; ++i) amax = max_of(abs_of(tile[i]), amax);
    const F d = amax / set(127);
    const F inverse = reciprocal(d);
    for (int i = 0; i < 32; ++i) tile[i] = rounded_away(tile[i] * inverse);
    store(scales, d);
    for_blocks<32>(tile, first, blocks, [&](int j, const uint8_t* codes) {
      uint8_t* to = out + (first + j) * 34;
      block::put_half(to, scales[j]);
      memcpy(to + 2, codes, 32);
    });
  }
}

// ---- super-blocks of 256 ----------------------------------------------------------------------------------------------

/// What is known of the 16 * per_block sub-blocks of a batch, in order; and the same with the super-blocks as lanes.
template <int per_block>
struct PerSubBlock {
  float values[per_block * kLanes];
  void set_group(int g, F v) { store(values + g * kLanes, v); }
  F group(int g) const { return load(values + g * kLanes); }
  /// lane b: the value of sub-block j of super-block b
  F across(int j) const {
    float lanes[kLanes];
    for (int b = 0; b < kLanes; ++b) lanes[b] = values[b * per_block + j];
    return load(lanes);
  }
  void set_across(int j, F v) {
    float lanes[kLanes];
    store(lanes, v);
    for (int b = 0; b < kLanes; ++b) values[b * per_block + j] = lanes[b];
  }
};

/// f16 of each lane, and back.
inline F through_half(F v, uint16_t* halves) {
  float lanes[kLanes];
  store(lanes, v);
  for (int b = 0; b < kLanes; ++b) {
    halves[b] = float_to_half(lanes[b]);
    lanes[b] = half_to_float(halves[b]);
  }
  return load(lanes);
}

inline void put_bits(uint8_t* to, uint16_t half) { memcpy(to, &half, sizeof half); }

/// Q2_K, Q4_K, Q5_K: sub-blocks with a scale and a min, both coded over the super-block.
template <int n, int nmax, int code_max, bool absolute>
struct MinFormat {
  static constexpr int per_block = 256 / n;
  F tile[256], codes[n];
  PerSubBlock<per_block> scale, min, inverse, base, sum_w, scale_code, min_code;
  uint16_t d_bits[kLanes], dmin_bits[kLanes];
  uint8_t packed[256 * kLanes];

  /// Codes of `values` over each super-block, and its f16 scale.
  void code_values(PerSubBlock<per_block>& values, PerSubBlock<per_block>& value_codes, uint16_t* bits, bool weighted) {
    F v[per_block], l[per_block];
    for (int j = 0; j < per_block; ++j) v[j] = values.across(j);
    F d;
    if (weighted) {
      F w[per_block];
      for (int j = 0; j < per_block; ++j) w[j] = sum_w.across(j);
      d = search_positive<per_block, code_max>(v, w, l);
    } else {
      F max = set(0);
      for (int j = 0; j < per_block; ++j) max = max_of(v[j], max);
      constexpr auto top = static_cast<float>(code_max);
      const F inverse_max = select(max > set(0), set(top) / max, set(0));
      for (int j = 0; j < per_block; ++j) l[j] = min_of(nearest(inverse_max * v[j]), set(top));
      d = max / set(top);
    }
    through_half(d, bits);
    for (int j = 0; j < per_block; ++j) value_codes.set_across(j, l[j]);
  }

  void run(const Batch& batch, bool weighted, float first, float step, int count, float sigma_factor) {
    float sigma[kLanes] = {};
    if (weighted) store(sigma, set(sigma_factor) * sums_of_squares(batch.x, 256) / set(256));
    for (int g = 0; g < per_block; ++g) {
      F x[n], w[n];
      load_group(x, batch.x, g, per_block, n);
      if (weighted) {
        F q[n];
        float lanes[kLanes];
        load_group(q, batch.q, g, per_block, n);
        for (int j = 0; j < kLanes; ++j) lanes[j] = sigma[(g * kLanes + j) / per_block];
        weigh(n, x, q, load(lanes), w);
        F sum = set(0);
        for (int i = 0; i < n; ++i) sum = sum + w[i];
        sum_w.set_group(g, sum);
      } else if (absolute) {
        for (int i = 0; i < n; ++i) w[i] = abs_of(x[i]);
      } else {
        F sum = set(0);
        for (int i = 0; i < n; ++i) sum = sum + x[i] * x[i];
        const F average = sqrt_of(sum / set(static_cast<float>(n)));
        for (int i = 0; i < n; ++i) w[i] = average + abs_of(x[i]);
      }
      const Asymmetric found = weighted ? search_asymmetric<n, nmax, false>(x, w, -0.9f, 0.05f, 36)
                                        : search_asymmetric<n, nmax, absolute>(x, w, first, step, count);
      scale.set_group(g, found.scale);
      min.set_group(g, set(0) - found.min);
      inverse.set_group(g, found.inverse);
      base.set_group(g, found.base);
    }
    code_values(scale, scale_code, d_bits, weighted);
    code_values(min, min_code, dmin_bits, weighted);

    for (int g = 0; g < per_block; ++g) {
      float d[kLanes], dmin[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        const int b = (g * kLanes + j) / per_block;
        d[j] = half_to_float(d_bits[b]);
        dmin[j] = half_to_float(dmin_bits[b]);
      }
      const F step_size = load(d) * scale_code.group(g), offset = load(dmin) * min_code.group(g);
      F x[n], level[n];
      load_group(x, batch.x, g, per_block, n);
      for (int i = 0; i < n; ++i)
        level[i] = clamped(nearest((x[i] + offset) / step_size), 0, static_cast<float>(nmax));
      const M kept = step_size == set(0);  // there the codes of the search stand
      if (any(kept)) {
        const Asymmetric found{set(0), set(0), inverse.group(g), base.group(g)};
        for (int i = 0; i < n; ++i) level[i] = select(kept, asymmetric_code(found, x[i], nmax), level[i]);
      }
      store_codes<n>(packed + g * kLanes * n, level);
    }
  }
};

template <int nmax>
void quantize_q45_k(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  constexpr int size = nmax == 15 ? 144 : 176;
  const int64_t blocks = rows * cols / 256;
  MinFormat<32, nmax, 63, false> f;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    f.run(batch_of(x, importance, cols, first, blocks, 256), importance != nullptr, nmax == 15 ? -1.0f : -0.5f, 0.1f,
          nmax == 15 ? 20 : 15, 2);
    for (int b = 0; b < kLanes && first + b < blocks; ++b) {
      uint8_t* to = out + (first + b) * size;
      uint8_t scale_codes[8], min_codes[8];
      for (int j = 0; j < 8; ++j) {
        scale_codes[j] = static_cast<uint8_t>(f.scale_code.values[8 * b + j]);
        min_codes[j] = static_cast<uint8_t>(f.min_code.values[8 * b + j]);
      }
      put_bits(to, f.d_bits[b]);
      put_bits(to + 2, f.dmin_bits[b]);
      block::pack_q4_k_scales(to + 4, scale_codes, min_codes);
      if (nmax == 31) block::pack_q5_k_high(to + 16, f.packed + 256 * b);
      block::pack_q4_k_codes(to + size - 128, f.packed + 256 * b);
    }
  }
}

void quantize_q2_k(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  const int64_t blocks = rows * cols / 256;
  MinFormat<16, 3, 15, true> f;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    f.run(batch_of(x, importance, cols, first, blocks, 256), importance != nullptr, -0.5f, 0.1f, 15, 1);
    for (int b = 0; b < kLanes && first + b < blocks; ++b) {
      uint8_t* to = out + (first + b) * 84;
      for (int j = 0; j < 16; ++j)
        to[j] = static_cast<uint8_t>(static_cast<int>(f.scale_code.values[16 * b + j]) |
                                     static_cast<int>(f.min_code.values[16 * b + j]) << 4);
      block::pack_pairs(to + 16, f.packed + 256 * b);
      put_bits(to + 80, f.d_bits[b]);
      put_bits(to + 82, f.dmin_bits[b]);
    }
  }
}

/// Q3_K and Q6_K: sixteen sub-blocks of 16 with a signed scale; a group of lanes is a super-block.
struct SignedFormat {
  PerSubBlock<16> scale, inverse, sum_w, scale_code;
  uint16_t d_bits[kLanes];
  uint8_t packed[256 * kLanes];

  template <int nmax>
  void requantize(const Batch& batch, const F* found_codes) {
    for (int b = 0; b < kLanes; ++b) {
      F x[16], level[16];
      load_group(x, batch.x, b, 16, 16);
      const F step_size = set(half_to_float(d_bits[b])) * scale_code.group(b);
      const M kept = step_size == set(0);
      for (int i = 0; i < 16; ++i) {
        const F code = clamped(nearest(x[i] / step_size), static_cast<float>(-nmax), static_cast<float>(nmax - 1));
        level[i] = code + set(static_cast<float>(nmax));
      }
      if (any(kept)) {
        const Symmetric found{set(0), inverse.group(b)};
        for (int i = 0; i < 16; ++i)
          level[i] = select(kept, found_codes ? found_codes[16 * b + i] : symmetric_code(found, x[i], nmax), level[i]);
      }
      store_codes<16>(packed + 256 * b, level);
    }
  }
};

void quantize_q6_k(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  const int64_t blocks = rows * cols / 256;
  SignedFormat f;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 256);
    for (int b = 0; b < kLanes; ++b) {
      F tile[16], w[16];
      load_group(tile, batch.x, b, 16, 16);
      if (importance) load_group(w, batch.q, b, 16, 16);
      const Symmetric found = search_symmetric<16, 32>(tile, importance ? w : nullptr);
      f.scale.set_group(b, found.scale);
      f.inverse.set_group(b, found.inverse);
    }
    F v[16];
    for (int j = 0; j < 16; ++j) v[j] = f.scale.across(j);
    const F max = signed_extreme(16, v);
    const M dead = abs_of(max) < set(kNegligible);
    const F inverse = set(-128) / select(dead, set(1), max);
    through_half(set(1) / inverse, f.d_bits);
    for (int j = 0; j < 16; ++j) f.scale_code.set_across(j, min_of(nearest(inverse * v[j]), set(127)));
    f.requantize<32>(batch, nullptr);
    float extremes[kLanes];
    store(extremes, abs_of(max));
    for (int b = 0; b < kLanes && first + b < blocks; ++b) {
      uint8_t* to = out + (first + b) * 210;
      if (extremes[b] < kNegligible) {
        memset(to, 0, 210);
        continue;
      }
      block::pack_q6_k_codes(to, to + 128, f.packed + 256 * b);
      store_bytes(to + 192, f.scale_code.group(b));
      put_bits(to + 208, f.d_bits[b]);
    }
  }
}

void quantize_q3_k(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  const int64_t blocks = rows * cols / 256;
  SignedFormat f;
  F codes[256];
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 256);
    float sigma[kLanes] = {};
    if (importance) store(sigma, set(2) * sums_of_squares(batch.x, 256) / set(256));
    for (int b = 0; b < kLanes; ++b) {
      F tile[16];
      load_group(tile, batch.x, b, 16, 16);
      if (importance) {
        F q[16], w[16];
        load_group(q, batch.q, b, 16, 16);
        weigh(16, tile, q, set(sigma[b]), w);
        F sum = set(0);
        for (int i = 0; i < 16; ++i) sum = sum + w[i];
        f.sum_w.set_group(b, sum);
        const Symmetric found = search_symmetric<16, 4>(tile, w);
        f.scale.set_group(b, found.scale);
        f.inverse.set_group(b, found.inverse);
      } else {
        f.scale.set_group(b, search_coordinate<16, 4>(tile, codes + 16 * b));
      }
    }
    F v[16], l[16];
    for (int j = 0; j < 16; ++j) v[j] = f.scale.across(j);
    F d;
    if (importance) {
      F w[16];
      for (int j = 0; j < 16; ++j) w[j] = f.sum_w.across(j);
      const Symmetric found = search_symmetric<16, 32>(v, w);
      d = found.scale;
      for (int j = 0; j < 16; ++j) l[j] = symmetric_code(found, v[j], 32) - set(32);
    } else {
      const F max = signed_extreme(16, v);
      const M dead = max == set(0);
      const F inverse = set(-32) / select(dead, set(1), max);
      d = select(dead, set(0), set(1) / inverse);
      for (int j = 0; j < 16; ++j) l[j] = select(dead, set(-32), clamped(nearest(inverse * v[j]), -32, 31));
    }
    through_half(d, f.d_bits);
    for (int j = 0; j < 16; ++j) f.scale_code.set_across(j, l[j]);
    f.requantize<4>(batch, importance ? nullptr : codes);
    for (int b = 0; b < kLanes && first + b < blocks; ++b) {
      uint8_t* to = out + (first + b) * 110;
      uint8_t scale_codes[16];
      store_bytes(scale_codes, f.scale_code.group(b) + set(32));
      block::pack_third_bits(to, f.packed + 256 * b);
      block::pack_pairs(to + 32, f.packed + 256 * b);
      block::pack_q3_k_scales(to + 96, scale_codes);
      put_bits(to + 108, f.d_bits[b]);
    }
  }
}

// ---- IQ4 --------------------------------------------------------------------------------------------------------------

/// The code of the nearest IQ4 value is how many midpoints between neighbours are not above x: found by halving. midpoint[k]
/// holds, for code c, the midpoint that decides its bit of weight 8 >> k.
struct Iq4 {
  Table values, midpoint[4];
  Iq4() {
    float v[16], m[16], shifted[16];
    for (int i = 0; i < 16; ++i) v[i] = block::iq4_values[i];
    for (int i = 0; i < 15; ++i) m[i] = (v[i] + v[i + 1]) / 2;
    m[15] = 1e30f;
    values = table(v);
    for (int k = 0; k < 4; ++k) {
      const int ahead = (8 >> k) - 1;
      for (int i = 0; i < 16; ++i) shifted[i] = i + ahead < 16 ? m[i + ahead] : 1e30f;
      midpoint[k] = table(shifted);
    }
  }
  I code(F x) const {
    I c = zero_index();
    for (int k = 0; k < 4; ++k) c = add_where(~(x < lookup(midpoint[k], c)), c, 8 >> k);
    return c;
  }
};

inline F search_iq4(const Iq4& iq4, const F* x, const F* w) {
  const F max = signed_extreme(32, x);
  const M dead = abs_of(max) < set(kNegligible);
  const F divisor = select(dead, set(1), max);
  F sumqx = set(0), sumq2 = set(0);
  const auto sums = [&](F inverse) {
    sumqx = sumq2 = set(0);
    for (int i = 0; i < 32; ++i) {
      const F v = lookup(iq4.values, iq4.code(inverse * x[i]));
      const F wv = w[i] * v;
      sumqx = sumqx + wv * x[i];
      sumq2 = sumq2 + wv * v;
    }
  };
  const float lowest = block::iq4_values[0];
  sums(set(1) / ((set(0) - divisor) / set(lowest)));
  F scale = select(sumq2 > set(0), sumqx / sumq2, set(0));
  F best = scale * sumqx;
  for (int t = -7; t <= 7; ++t) {
    sums(set(static_cast<float>(t) + lowest) / divisor);
    const M better = (sumq2 > set(0)) & (sumqx * sumqx > best * sumq2);
    scale = select(better, sumqx / sumq2, scale);
    best = select(better, scale * sumqx, best);
  }
  return select(dead, set(0), scale);
}

void quantize_iq4_nl(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  const int64_t blocks = rows * cols / 32;
  const Iq4 iq4;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 32);
    F tile[32], w[32];
    load_tile(tile, batch.x, 32);
    if (importance) {
      F q[32], sum = set(0);
      load_tile(q, batch.q, 32);
      for (int i = 0; i < 32; ++i) sum = sum + tile[i] * tile[i];
      weigh(32, tile, q, sum * set(2.0f / 32), w);
    } else {
      for (int i = 0; i < 32; ++i) w[i] = tile[i] * tile[i];
    }
    const F scale = search_iq4(iq4, tile, w);
    const F inverse = reciprocal(scale);
    for (int i = 0; i < 32; ++i) tile[i] = to_float(iq4.code(inverse * tile[i]));
    float scales[kLanes];
    store(scales, scale);
    for_blocks<32>(tile, first, blocks, [&](int j, const uint8_t* codes) {
      uint8_t* to = out + (first + j) * 18;
      block::put_half(to, scales[j]);
      block::pack_nibbles(to + 2, codes, 32);
    });
  }
}

void quantize_iq4_xs(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  const int64_t blocks = rows * cols / 256;
  const Iq4 iq4;
  PerSubBlock<8> scale, inverse, scale_code;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 256);
    float sigma[kLanes] = {};
    if (importance) store(sigma, sums_of_squares(batch.x, 256) * set(2.0f / 256));
    for (int g = 0; g < 8; ++g) {
      F tile[32], w[32];
      load_group(tile, batch.x, g, 8, 32);
      if (importance) {
        F q[32];
        float lanes[kLanes];
        load_group(q, batch.q, g, 8, 32);
        for (int j = 0; j < kLanes; ++j) lanes[j] = sigma[(g * kLanes + j) / 8];
        weigh(32, tile, q, load(lanes), w);
      } else {
        for (int i = 0; i < 32; ++i) w[i] = tile[i] * tile[i];
      }
      scale.set_group(g, search_iq4(iq4, tile, w));
    }
    F v[8];
    for (int j = 0; j < 8; ++j) v[j] = scale.across(j);
    const F d = (set(0) - signed_extreme(8, v)) / set(32);
    const F inverse_d = reciprocal(d);
    float d_lanes[kLanes];
    store(d_lanes, select(signed_extreme(8, v) == set(0), set(-0.0f), d));
    for (int j = 0; j < 8; ++j) {
      const F l = clamped(nearest(inverse_d * v[j]), -32, 31);
      scale_code.set_across(j, l + set(32));
      inverse.set_across(j, reciprocal(d * l));
    }
    for (int g = 0; g < 8; ++g) {
      F tile[32];
      load_group(tile, batch.x, g, 8, 32);
      for (int i = 0; i < 32; ++i) tile[i] = to_float(iq4.code(inverse.group(g) * tile[i]));
      uint8_t codes[32 * kLanes];
      store_codes<32>(codes, tile);
      for (int j = 0; j < kLanes; ++j) {
        const int flat = g * kLanes + j;
        if (first + flat / 8 < blocks)
          block::pack_nibbles(out + (first + flat / 8) * 136 + 8 + 16 * (flat % 8), codes + 32 * j, 32);
      }
    }
    for (int b = 0; b < kLanes && first + b < blocks; ++b) {
      uint8_t* to = out + (first + b) * 136;
      uint8_t scale_codes[8];
      for (int j = 0; j < 8; ++j) scale_codes[j] = static_cast<uint8_t>(scale_code.values[8 * b + j]);
      block::put_half(to, d_lanes[b]);
      block::pack_iq4_xs_scales(to + 2, to + 4, scale_codes);
    }
  }
}

// ---- FP4 --------------------------------------------------------------------------------------------------------------

/// The code whose value is nearest to x, the lowest on ties; scale per lane.
inline F fp4_code(F x, F scale) {
  F best = set(0), best_error = abs_of(set(0) * scale - x);
  for (int code = 1; code < 16; ++code) {
    if (code == 8) continue;  // minus zero never beats zero
    const F error = abs_of(set(block::fp4_values[code]) * scale - x);
    const M better = error < best_error;
    best = select(better, set(static_cast<float>(code)), best);
    best_error = select(better, error, best_error);
  }
  return best;
}

void quantize_nvfp4(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float*) {
  const int64_t blocks = rows * cols / 16;  // sub-blocks: each has its own scale
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, nullptr, cols, first, blocks, 16);
    F tile[16];
    float lanes[kLanes];
    uint8_t scale_codes[kLanes];
    load_tile(tile, batch.x, 16);
    store(lanes, abs_of(signed_extreme(16, tile)) / set(6));
    for (int j = 0; j < kLanes; ++j) {
      scale_codes[j] = block::to_ue4m3(lanes[j]);
      lanes[j] = block::ue4m3_half(scale_codes[j]);
    }
    for (int i = 0; i < 16; ++i) tile[i] = fp4_code(tile[i], load(lanes));
    for_blocks<16>(tile, first, blocks, [&](int j, const uint8_t* codes) {
      uint8_t* to = out + (first + j) / 4 * 36;
      const auto s = static_cast<int>((first + j) % 4);
      to[s] = scale_codes[j];
      block::pack_nibbles(to + 4 + 8 * s, codes, 16);
    });
  }
}

void quantize_mxfp4(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float*) {
  const int64_t blocks = rows * cols / 32;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, nullptr, cols, first, blocks, 32);
    F tile[32];
    float lanes[kLanes];
    uint8_t scale_codes[kLanes];
    load_tile(tile, batch.x, 32);
    store(lanes, abs_of(signed_extreme(32, tile)));
    for (int j = 0; j < kLanes; ++j) {
      const auto log2 = static_cast<float>(__builtin_log2(static_cast<double>(lanes[j])));
      scale_codes[j] = static_cast<uint8_t>(lanes[j] > 0 ? static_cast<int>(__builtin_floorf(log2)) - 2 + 127 : 0);
      lanes[j] = block::e8m0_half(scale_codes[j]);
    }
    for (int i = 0; i < 32; ++i) tile[i] = fp4_code(tile[i], load(lanes));
    for_blocks<32>(tile, first, blocks, [&](int j, const uint8_t* codes) {
      uint8_t* to = out + (first + j) * 17;
      to[0] = scale_codes[j];
      block::pack_nibbles(to + 1, codes, 32);
    });
  }
}

#include "fettle_kit/compress/lattice_lanes.inl"

constexpr RowQuantizers lane_quantizers{
    &quantize_q45_0<8>,  &quantize_q45_1<15>, &quantize_q45_0<16>, &quantize_q45_1<31>, &quantize_q8_0,
    &quantize_q2_k,      &quantize_q3_k,      &quantize_q45_k<15>, &quantize_q45_k<31>, &quantize_q6_k,
    &quantize_iq4_nl,    &quantize_iq4_xs,    &quantize_mxfp4,     &quantize_nvfp4,
    &quantize_signed<block::iq2_xxs_search, 66, &block::pack_iq2_xxs>,
    &quantize_signed<block::iq2_xs_search, 74, &block::pack_iq2_xs>,
    &quantize_signed<block::iq2_s_search, 82, &block::pack_iq2_s>,
    &quantize_signed<block::iq3_xxs_search, 98, &block::pack_iq3_xxs>,
    &quantize_signed<block::iq3_s_search, 110, &block::pack_iq3_s>,
    &quantize_iq1<32>,   &quantize_iq1<16>};
