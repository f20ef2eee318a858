// SPDX-License-Identifier: Apache-2.0
// Sixteen candidates for the scale of a sub-block at a time, in the compiler's vector types: included inside the
// anonymous namespace of one file an instruction set, which has defined GGUF_SEARCH_WIDTH, the floats of one register.
// Lanes never meet, so the bytes are the same for every width.

constexpr int kWidth = GGUF_SEARCH_WIDTH, kCandidates = 16;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
typedef float V __attribute__((vector_size(4 * kWidth)));

/// A sub-block of n weights is stored as scale * code - min with codes from low to high.
struct Codes {
  float low, high;
};

struct Candidates {
  float scale[kCandidates], min[kCandidates], error[kCandidates];

  /// The first of those with the smallest error; the first of all if none is a number.
  int best() const {
    int at = 0;
    float least = __builtin_inff();
    for (int c = 0; c < kCandidates; ++c)
      if (error[c] < least) least = error[c], at = c;
    return at;
  }
};

/// error[c] = sum of w (x - (scale[c] code - min[c]))^2 with the nearest codes.
template <int n>
inline void measure(Candidates& all, const float* x, const float* w, Codes codes) {
  for (int first = 0; first < kCandidates; first += kWidth) {
    V scale, min, error{};
    memcpy(&scale, all.scale + first, sizeof scale);
    memcpy(&min, all.min + first, sizeof min);
    const V zero{}, low = zero + codes.low, high = zero + codes.high, round = zero + kRound;
    const V inverse = scale == zero ? zero : (zero + 1.0f) / scale;
    for (int i = 0; i < n; ++i) {
      V code = (x[i] + min) * inverse;
      code = code > low ? code : low;
      code = code < high ? code : high;
      code = (code + round) - round;
      const V difference = scale * code - min - x[i];
      error += w[i] * difference * difference;
    }
    memcpy(all.error + first, &error, sizeof error);
  }
}

inline float code_of(float x, float scale, float min, Codes codes) {
  float code = (x + min) * (scale == 0 ? 0.0f : 1.0f / scale);
  code = code > codes.low ? code : codes.low;
  code = code < codes.high ? code : codes.high;
  return (code + kRound) - kRound;
}

inline int nearest_int(float v, int low, int high) {
  if (!(v > static_cast<float>(low))) return low;
  if (v > static_cast<float>(high)) return high;
  return static_cast<int>((v + kRound) - kRound);
}

inline float half_of(float v) { return half_to_float(float_to_half(v)); }

// ---- one scale a block: Q4_0, Q5_0
// --------------------------------------------------------------------------------------

/// Codes are from -half to half - 1. Tries scales of either sign that put the largest weight anywhere from beyond the
/// last code to well inside, then least squares for the codes of the best.
template <int half>
inline float search_single(const float* x, const float* w, double before) {
  constexpr int n = 32, tries = 64;
  const Codes codes{-half, half - 1};
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = __builtin_fabsf(x[i]) > largest ? __builtin_fabsf(x[i]) : largest;
  float best_scale = 0;
  auto best = static_cast<float>(before);
  bool found = false;
  const auto consider = [&](Candidates& all) {
    measure<n>(all, x, w, codes);
    const int at = all.best();
    if (!(all.error[at] < best)) return;
    best = all.error[at];
    best_scale = all.scale[at];
    found = true;
  };
  Candidates all{};
  for (int first = 0; first < tries; first += kCandidates) {
    for (int c = 0; c < kCandidates; ++c) {
      const int k = first + c;
      const float levels = half * (0.75f + 0.5f * static_cast<float>(k / 2) / (tries / 2));
      all.scale[c] = half_of((k % 2 == 0 ? largest : -largest) / levels);
    }
    consider(all);
  }
  for (int round = 0; found && round < 3; ++round) {
    double numerator = 0, denominator = 0;
    for (int i = 0; i < n; ++i) {
      const auto code = static_cast<double>(code_of(x[i], best_scale, 0, codes));
      numerator += static_cast<double>(w[i]) * static_cast<double>(x[i]) * code;
      denominator += static_cast<double>(w[i]) * code * code;
    }
    if (!(denominator > 0)) break;
    const float fitted = half_of(static_cast<float>(numerator / denominator));
    if (fitted == best_scale) break;
    for (float& scale : all.scale) scale = fitted;
    const float was = best;
    consider(all);
    if (best == was) break;
  }
  return found ? best_scale : __builtin_nanf("");
}

template <int half>
void search_q4_0(const float* x, const float* w, double before, uint8_t* out) {
  const float scale = search_single<half>(x, w, before);
  if (__builtin_isnan(scale)) return;
  uint8_t codes[32];
  for (int i = 0; i < 32; ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int>(code_of(x[i], scale, 0, {-half, half - 1})) + half);
  block::put_half(out, scale);
  if constexpr (half == 16) block::pack_fifth_bits(out + 2, codes);
  block::pack_nibbles(out + (half == 16 ? 6 : 2), codes, 32);
}

// ---- scales of sub-blocks in units of the block's: the K types
// ----------------------------------------------------------

/// What a type stores: sub-blocks of n weights, scale codes from scale_low to scale_high, min codes from 0 to min_high
/// (0: none), codes of weights.
struct KType {
  int n, scale_low, scale_high, min_high;
  Codes codes;
};

struct KBlock {
  float unit = 0, min_unit = 0;  ///< as they are stored, exact in f16
  int scale[16] = {}, min[16] = {};
  double error = 0;
};

/// The best codes of one sub-block round those in `scale` and `min`.
template <KType t>
inline float search_sub_block(const float* x, const float* w, float unit, float min_unit, int& scale, int& min) {
  Candidates all{};
  float best = __builtin_inff();
  int found_scale = scale, found_min = min;
  const auto value = [](float u, int code) { return u * static_cast<float>(code); };
  int scales[kCandidates], mins[kCandidates];
  const auto consider = [&] {
    for (int c = 0; c < kCandidates; ++c) {
      scales[c] = scales[c] < t.scale_low ? t.scale_low : scales[c] > t.scale_high ? t.scale_high : scales[c];
      mins[c] = mins[c] < 0 ? 0 : mins[c] > t.min_high ? t.min_high : mins[c];
      all.scale[c] = value(unit, scales[c]);
      all.min[c] = value(min_unit, mins[c]);
    }
    measure<t.n>(all, x, w, t.codes);
    const int at = all.best();
    if (!(all.error[at] < best)) return false;
    best = all.error[at];
    found_scale = scales[at];
    found_min = mins[at];
    return true;
  };
  if constexpr (t.min_high == 0) {
    if constexpr (t.scale_high - t.scale_low < 64) {
      for (int from = t.scale_low; from <= t.scale_high; from += kCandidates) {
        for (int c = 0; c < kCandidates; ++c) scales[c] = from + c, mins[c] = 0;
        consider();
      }
    } else {
      const int centres[] = {scale, -scale};
      for (const int centre : centres) {
        for (int c = 0; c < kCandidates; ++c) scales[c] = centre - 7 + c, mins[c] = 0;
        consider();
      }
    }
  } else if constexpr (t.scale_high == 15 && t.min_high == 15) {
    for (int m = 0; m <= 15; ++m) {
      for (int c = 0; c < kCandidates; ++c) scales[c] = c, mins[c] = m;
      consider();
    }
  } else {
    for (int round = 0; round < 3; ++round) {
      bool better = false;
      int from_scale = round == 0 ? scale : found_scale, from_min = round == 0 ? min : found_min;
      for (int c = 0; c < kCandidates; ++c) scales[c] = from_scale - 7 + c, mins[c] = from_min;
      better |= consider();
      from_scale = found_scale, from_min = found_min;
      for (int c = 0; c < kCandidates; ++c) scales[c] = from_scale, mins[c] = from_min - 7 + c;
      better |= consider();
      from_scale = found_scale, from_min = found_min;
      for (int c = 0; c < kCandidates; ++c) {  // both at once: the ridge of the error runs across
        constexpr int step[4] = {-2, -1, 1, 2};
        scales[c] = from_scale + step[c / 4];
        mins[c] = from_min + step[c % 4];
      }
      better |= consider();
      if (!better) break;
    }
  }
  scale = found_scale;
  min = found_min;
  return best;
}

template <KType t>
inline void search_sub_blocks(const float* x, const float* w, KBlock& b) {
  b.error = 0;
  for (int j = 0; j < 256 / t.n; ++j)
    b.error +=
        static_cast<double>(search_sub_block<t>(x + j * t.n, w + j * t.n, b.unit, b.min_unit, b.scale[j], b.min[j]));
}

/// The units that fit the codes of b best, by least squares; false if they are what they were.
template <KType t>
inline bool fit_units(const float* x, const float* w, KBlock& b) {
  double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;  // x ~ unit a - min_unit b
  for (int j = 0; j < 256 / t.n; ++j) {
    const float scale = b.unit * static_cast<float>(b.scale[j]), min = b.min_unit * static_cast<float>(b.min[j]);
    for (int i = j * t.n; i < (j + 1) * t.n; ++i) {
      const double u = static_cast<double>(b.scale[j]) * static_cast<double>(code_of(x[i], scale, min, t.codes)),
                   v = -static_cast<double>(b.min[j]), weight = static_cast<double>(w[i]);
      aa += weight * u * u;
      ab += weight * u * v;
      bb += weight * v * v;
      xa += weight * static_cast<double>(x[i]) * u;
      xb += weight * static_cast<double>(x[i]) * v;
    }
  }
  const double determinant = aa * bb - ab * ab;
  float unit = b.unit, min_unit = b.min_unit;
  if (bb > 0 && determinant > 1e-12 * aa * bb) {
    unit = static_cast<float>((xa * bb - xb * ab) / determinant);
    min_unit = static_cast<float>((xb * aa - xa * ab) / determinant);
    if (min_unit < 0) min_unit = b.min_unit;
  } else if (aa > 0) {
    unit = static_cast<float>((xa - ab * static_cast<double>(b.min_unit)) / aa);
  }
  unit = half_of(unit);
  min_unit = half_of(min_unit);
  if (!__builtin_isfinite(unit) || !__builtin_isfinite(min_unit)) return false;
  const bool changed = unit != b.unit || min_unit != b.min_unit;
  b.unit = unit;
  b.min_unit = min_unit;
  return changed;
}

/// The scale codes of b in units `factor` as large.
template <KType t>
inline KBlock resized(const KBlock& b, float factor, float min_factor) {
  KBlock out = b;
  out.unit = half_of(b.unit * factor);
  out.min_unit = half_of(b.min_unit * min_factor);
  for (int j = 0; j < 256 / t.n; ++j) {
    if (out.unit != 0)
      out.scale[j] = nearest_int(b.unit * static_cast<float>(b.scale[j]) / out.unit, t.scale_low, t.scale_high);
    if (out.min_unit != 0)
      out.min[j] = nearest_int(b.min_unit * static_cast<float>(b.min[j]) / out.min_unit, 0, t.min_high);
  }
  return out;
}

/// True if `b` became better than `before`.
template <KType t>
inline bool search_k(const float* x, const float* w, double before, KBlock& b) {
  KBlock best = b;
  best.error = before;
  bool found = false;
  const auto improve = [&](KBlock tried) {
    for (int round = 0; round < 3; ++round) {
      search_sub_blocks<t>(x, w, tried);
      const bool better = tried.error < best.error;
      if (better) best = tried;
      found |= better;
      if (!better || !fit_units<t>(x, w, tried)) break;
    }
  };
  improve(b);
  constexpr float factors[] = {0.94f, 0.97f, 1.03f, 1.06f}, min_factors[] = {0.94f, 1.06f};
  for (const float factor : factors) improve(resized<t>(best, factor, 1));
  if constexpr (t.min_high > 0)
    for (const float factor : min_factors) improve(resized<t>(best, 1, factor));
  b = best;
  return found;
}

template <KType t>
inline void codes_of(const float* x, const KBlock& b, uint8_t* codes) {
  for (int i = 0; i < 256; ++i) {
    const int j = i / t.n;
    const float scale = b.unit * static_cast<float>(b.scale[j]), min = b.min_unit * static_cast<float>(b.min[j]);
    codes[i] = static_cast<uint8_t>(static_cast<int>(code_of(x[i], scale, min, t.codes) - t.codes.low));
  }
}

constexpr KType kQ2K{16, 0, 15, 15, {0, 3}}, kQ3K{16, -32, 31, 0, {-4, 3}}, kQ4K{32, 0, 63, 63, {0, 15}},
    kQ5K{32, 0, 63, 63, {0, 31}}, kQ6K{16, -128, 127, 0, {-32, 31}};

void search_q2_k(const float* x, const float* w, double before, uint8_t* out) {
  KBlock b;
  b.unit = block::get_half(out + 80);
  b.min_unit = block::get_half(out + 82);
  for (int j = 0; j < 16; ++j) b.scale[j] = out[j] & 15, b.min[j] = out[j] >> 4;
  if (!search_k<kQ2K>(x, w, before, b)) return;
  uint8_t codes[256];
  codes_of<kQ2K>(x, b, codes);
  for (int j = 0; j < 16; ++j) out[j] = static_cast<uint8_t>(b.scale[j] | b.min[j] << 4);
  block::pack_pairs(out + 16, codes);
  block::put_half(out + 80, b.unit);
  block::put_half(out + 82, b.min_unit);
}

void search_q3_k(const float* x, const float* w, double before, uint8_t* out) {
  KBlock b;
  b.unit = block::get_half(out + 108);
  uint8_t scales[16], codes[256];
  block::unpack_q3_k_scales(scales, out + 96);
  for (int j = 0; j < 16; ++j) b.scale[j] = scales[j] - 32;
  if (!search_k<kQ3K>(x, w, before, b)) return;
  codes_of<kQ3K>(x, b, codes);
  for (int j = 0; j < 16; ++j) scales[j] = static_cast<uint8_t>(b.scale[j] + 32);
  block::pack_third_bits(out, codes);
  block::pack_pairs(out + 32, codes);
  block::pack_q3_k_scales(out + 96, scales);
  block::put_half(out + 108, b.unit);
}

template <KType t>
void search_q4_k(const float* x, const float* w, double before, uint8_t* out) {
  constexpr bool five = t.codes.high == 31;
  KBlock b;
  b.unit = block::get_half(out);
  b.min_unit = block::get_half(out + 2);
  uint8_t scales[8], mins[8], codes[256];
  block::unpack_q4_k_scales(scales, mins, out + 4);
  for (int j = 0; j < 8; ++j) b.scale[j] = scales[j], b.min[j] = mins[j];
  if (!search_k<t>(x, w, before, b)) return;
  codes_of<t>(x, b, codes);
  for (int j = 0; j < 8; ++j) scales[j] = static_cast<uint8_t>(b.scale[j]), mins[j] = static_cast<uint8_t>(b.min[j]);
  block::put_half(out, b.unit);
  block::put_half(out + 2, b.min_unit);
  block::pack_q4_k_scales(out + 4, scales, mins);
  if constexpr (five) block::pack_q5_k_high(out + 16, codes);
  block::pack_q4_k_codes(out + (five ? 48 : 16), codes);
}

void search_q6_k(const float* x, const float* w, double before, uint8_t* out) {
  KBlock b;
  b.unit = block::get_half(out + 208);
  for (int j = 0; j < 16; ++j) b.scale[j] = static_cast<int8_t>(out[192 + j]);
  if (!search_k<kQ6K>(x, w, before, b)) return;
  uint8_t codes[256];
  codes_of<kQ6K>(x, b, codes);
  block::pack_q6_k_codes(out, out + 128, codes);
  for (int j = 0; j < 16; ++j) out[192 + j] = static_cast<uint8_t>(b.scale[j]);
  block::put_half(out + 208, b.unit);
}
