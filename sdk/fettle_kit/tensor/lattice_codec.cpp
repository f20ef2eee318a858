// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/lattice_codec.h"

#include "fettle_kit/tensor/block_search.h"
#include "fettle_kit/tensor/lattice.h"
#include "fettle_kit/tensor/lattice_layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

namespace fettle::kit::block {
namespace {

using enum DType;

// ---- what IQ1, IQ2 and IQ3 share ---------------------------------------------------------------------------

float sum_of_squares(const float* x) {
  float sum = 0;
  for (int i = 0; i < 256; ++i) sum += x[i] * x[i];
  return sum;
}

/// w[i] = q[i] * sqrt(sigma2 + x[i]^2)
void importance_weights(int n, const float* x, const float* q, float sigma2, float* w) {
  for (int i = 0; i < n; ++i) w[i] = q[i] * std::sqrt(sigma2 + x[i] * x[i]);
}

/// The code l in 0 .. top for which 2 l + 1 is nearest to v.
int odd_code(float v, int top) { return std::clamp(nearest_int(0.5f * (v - 1)), 0, top); }

/// A lattice with what its levels stand for.
struct Points {
  const Lattice& lattice;
  const LatticeMap& map;

  explicit Points(LatticeName name) : lattice(block::lattice(name)), map(lattice_map(name)) {}

  int groups(int n) const { return n / lattice.values; }
  int level(std::uint16_t key, int i) const { return key >> (lattice.bits * i) & ((1 << lattice.bits) - 1); }
  std::uint16_t with(std::uint16_t key, int i, int level) const {
    return static_cast<std::uint16_t>(key | level << (lattice.bits * i));
  }
  bool has(std::uint16_t key) const { return map.place[key] >= 0; }
  std::uint16_t index(std::uint16_t key) const { return static_cast<std::uint16_t>(map.place[key]); }

  /// Among the neighbours of a key that is no point, the one for which sum w (scale value - x)^2 is smallest, the first
  /// on ties; values [levels].
  std::uint16_t nearest(std::uint16_t key, float scale, const float* values, const float* x, const float* w) const {
    const std::uint16_t* list = map.neighbours.data() + ~map.place[key];
    std::uint16_t best = list[1];
    float best_error = std::numeric_limits<float>::max();
    for (int n = 1; n <= list[0]; ++n) {
      float error = 0;
      for (int i = 0; i < lattice.values; ++i) {
        const float difference = scale * values[level(list[n], i)] - x[i];
        error += w[i] * difference * difference;
      }
      if (error < best_error) {
        best_error = error;
        best = list[n];
      }
    }
    return best;
  }
};

void pack(DType type, std::uint8_t* out, const LatticeBlock& b);

// ---- signs apart: IQ2 and IQ3 ------------------------------------------------------------------------------

const SignedSearch& signed_search(DType type) {
  switch (type) {
    case iq2_xxs:
      return iq2_xxs_search;
    case iq2_xs:
      return iq2_xs_search;
    case iq2_s:
      return iq2_s_search;
    case iq3_xxs:
      return iq3_xxs_search;
    default:
      return iq3_s_search;
  }
}

/// Splits n values into magnitudes and, by eights, signs.
void split_signs(const SignedSearch& how, int n, const float* x, const float* w, float* magnitudes,
                 std::uint8_t* signs) {
  for (int g = 0; g < n; g += 8) {
    int minus = 0;
    std::uint8_t bits = 0;
    for (int i = 0; i < 8; ++i) {
      const bool negative = !(x[g + i] >= 0);
      magnitudes[g + i] = negative ? -x[g + i] : x[g + i];
      minus += negative ? 1 : 0;
      bits = static_cast<std::uint8_t>(bits | (negative ? 1 : 0) << i);
    }
    if (how.even_signs && minus % 2 != 0) {
      int least = 0;
      float least_weight = w[g] * x[g] * x[g];
      for (int i = 1; i < 8; ++i) {
        const float weight = w[g + i] * x[g + i] * x[g + i];
        if (weight < least_weight) {
          least_weight = weight;
          least = i;
        }
      }
      magnitudes[g + least] = -magnitudes[g + least];
      bits = static_cast<std::uint8_t>(bits ^ 1 << least);
    }
    signs[g / 8] = bits;
  }
}

/// The points of a sub-block of n magnitudes, with a scale that may be negative; nothing if they count as zero.
class SignedSubBlock {
 public:
  SignedSubBlock(const SignedSearch& how, const Points& points, const float* x, const float* w)
      : how_(how), points_(points), n_(how.sub_block), x_(x), w_(w) {
    for (int i = 0; i < n_; ++i) roots_[i] = std::sqrt(w[i]);
  }

  std::optional<float> search(std::uint16_t* keys) const {
    float max = x_[0];
    for (int i = 1; i < n_; ++i) max = std::max(max, x_[i]);
    if (max < how_.negligible) return std::nullopt;
    if (how_.from_best_fit) {
      std::uint8_t codes[32];
      max = search_positive(n_, 4, x_, w_, codes) * 3;
      if (max <= 0) return std::nullopt;
    }

    const int groups = points_.groups(n_);
    std::fill_n(keys, groups, std::uint16_t{0});
    bool wanted[8], trial_wanted[8];  // the group has the very levels it wanted
    std::fill_n(wanted, 8, how_.again == SignedSearch::Again::neighbours);
    float scale = how_.from_best_fit ? max / 3 : max / how_.top, best = 0;
    std::uint16_t trial[8];
    for (int t = -how_.tries; t <= how_.tries; ++t) {
      const float inverse = (how_.top + static_cast<float>(t) * how_.step) / max;
      for (int g = 0; g < groups; ++g) trial[g] = point(g, inverse, 1 / inverse, &trial_wanted[g]);
      const auto [sumqx, sumq2] = sums(trial);
      if (!(sumq2 > 0 && sumqx * sumqx > best * sumq2)) continue;
      scale = sumqx / sumq2;
      best = scale * sumqx;
      std::copy_n(trial, groups, keys);
      std::copy_n(trial_wanted, groups, wanted);
    }

    const bool any = std::find(wanted, wanted + groups, false) != wanted + groups;
    if (scale > 0 && (any || how_.again == SignedSearch::Again::all)) {
      const float inverse = 1 / scale;
      for (int g = 0; g < groups; ++g)
        if (how_.again != SignedSearch::Again::neighbours || !wanted[g]) keys[g] = point(g, inverse, scale, wanted + g);
      const auto [sumqx, sumq2] = sums(keys);
      if (sumq2 > 0) scale = sumqx / sumq2;
    }
    return scale;
  }

 private:
  /// For one group: the levels nearest to inverse * x if they are a point, else a neighbour of theirs.
  std::uint16_t point(int g, float inverse, float scale, bool* wanted) const {
    const int values = points_.lattice.values;
    const float* x = x_ + g * values;
    std::uint16_t key = 0;
    for (int i = 0; i < values; ++i) key = points_.with(key, i, odd_code(inverse * x[i], points_.lattice.levels - 1));
    *wanted = points_.has(key);
    return *wanted ? key : points_.nearest(key, scale, odd_values, x, roots_ + g * values);
  }

  struct Sums {
    float sumqx, sumq2;
  };
  Sums sums(const std::uint16_t* keys) const {
    Sums out{0, 0};
    for (int i = 0; i < n_; ++i) {
      const float q = odd_values[points_.level(keys[i / points_.lattice.values], i % points_.lattice.values)];
      out.sumqx += w_[i] * x_[i] * q;
      out.sumq2 += w_[i] * q * q;
    }
    return out;
  }

  const SignedSearch& how_;
  const Points& points_;
  int n_;
  const float* x_;
  const float* w_;
  float roots_[32];
};

void signed_weights(DType type, const SignedSearch& how, const float* x, const float* q, float sum2, float* w) {
  const float sigma2 = how.sigma * sum2 / 256;
  if (q)
    importance_weights(how.sub_block, x, q, sigma2, w);
  else
    for (int i = 0; i < how.sub_block; ++i) w[i] = type == iq2_s ? 0.25f * sigma2 + x[i] * x[i] : x[i] * x[i];
}

void encode_signed(DType type, const float* x, const float* q, std::uint8_t* out) {
  const SignedSearch& how = signed_search(type);
  const Points points(how.lattice);
  const int n = how.sub_block, sub_blocks = 256 / n, groups = points.groups(n);
  const float sum2 = sum_of_squares(x);
  LatticeBlock b{};
  float scales[16] = {}, max_scale = 0;
  for (int s = 0; s < sub_blocks; ++s) {
    float w[32], magnitudes[32];
    std::uint8_t signs[4];
    std::uint16_t keys[8];
    signed_weights(type, how, x + n * s, q ? q + n * s : nullptr, sum2, w);
    split_signs(how, n, x + n * s, w, magnitudes, signs);
    const auto scale = SignedSubBlock(how, points, magnitudes, w).search(keys);
    if (!scale) continue;  // zeros of every kind
    scales[s] = std::fabs(*scale);
    max_scale = std::max(max_scale, scales[s]);
    for (int g = 0; g < groups; ++g) b.index[groups * s + g] = points.index(keys[g]);
    for (int k = 0; k < n / 8; ++k)
      b.signs[n / 8 * s + k] = *scale < 0 ? static_cast<std::uint8_t>(~signs[k]) : signs[k];
  }
  if (max_scale == 0 && how.even_signs) b = {};  // the others keep what they found
  if (max_scale != 0) {
    const float d = max_scale / 31, inverse = 1 / d;
    b.d = d * how.enlarged;
    for (int s = 0; s < sub_blocks; ++s) b.scales[s] = static_cast<std::uint8_t>(odd_code(inverse * scales[s], 15));
  }
  pack(type, out, b);
}

// ---- three levels around a shifted zero: IQ1 ---------------------------------------------------------------

/// A sub-block in ascending order: the levels of the best fit are its first `low` values, those before `high`, the
/// rest.
struct Split {
  int low = -1, high = -1;
  int shift = -1;  ///< whose bit 0 and bit 1 say how the first and the second half are shifted: see the two searches
  float scale = 0, score = -std::numeric_limits<float>::max();

  void consider(int first, int second, int with, float sumqx, float sumq2) {
    if (!(sumq2 > 0 && sumqx * sumqx > score * sumq2)) return;
    scale = sumqx / sumq2;
    score = scale * sumqx;
    low = first;
    high = second;
    shift = with;
  }
};

/// Places of n values in ascending order; equal values keep theirs.
std::array<int, 32> ascending(int n, const float* x) {
  std::array<int, 32> order{};
  std::iota(order.begin(), order.begin() + n, 0);
  std::stable_sort(order.begin(), order.begin() + n, [x](int a, int b) { return x[a] < x[b]; });
  return order;
}

/// IQ1_S: all 32 values are shifted the same way. Sums over ranges of the order come from running sums.
Split split_of_32(const float* x, const float* w, const std::array<int, 32>& order) {
  float sumx[33] = {0}, sumw[33] = {0};
  for (int j = 0; j < 32; ++j) {
    const int i = order[static_cast<std::size_t>(j)];
    sumx[j + 1] = sumx[j] + w[i] * x[i];
    sumw[j + 1] = sumw[j] + w[i];
  }
  Split best;
  for (int low = 0; low <= 32; ++low)
    for (int high = low; high <= 32; ++high)
      for (int shift = 0; shift < 2; ++shift) {
        const float* v = shifted_values[shift];
        const float sumqx =
            (sumx[low] - sumx[0]) * v[0] + (sumx[high] - sumx[low]) * v[1] + (sumx[32] - sumx[high]) * v[2];
        const float sumq2 = (sumw[low] - sumw[0]) * v[0] * v[0] + (sumw[high] - sumw[low]) * v[1] * v[1] +
                            (sumw[32] - sumw[high]) * v[2] * v[2];
        best.consider(low, high, shift == 0 ? 0 : 3, sumqx, sumq2);
      }
  return best;
}

/// IQ1_M: each half of 16 values is shifted on its own; bit 1 of the shift is that of the first half.
Split split_of_16(const float* x, const float* w, const std::array<int, 32>& order) {
  Split best;
  for (int low = 0; low <= 16; ++low)
    for (int high = low; high <= 16; ++high) {
      float sumqx[4] = {0, 0, 0, 0}, sumq2[4] = {0, 0, 0, 0};
      for (int j = 0; j < 16; ++j) {
        const int i = order[static_cast<std::size_t>(j)], level = j < low ? 0 : j < high ? 1 : 2;
        for (int shift = 0; shift < 4; ++shift) {
          const float v = shifted_values[i < 8 ? shift >> 1 : shift & 1][level];
          sumqx[shift] += w[i] * v * x[i];
          sumq2[shift] += w[i] * v * v;
        }
      }
      for (int shift = 0; shift < 4; ++shift) best.consider(low, high, shift, sumqx[shift], sumq2[shift]);
    }
  return best;
}

void encode_iq1(DType type, const float* x, const float* q, std::uint8_t* out) {
  const Points points(LatticeName::iq1);
  const bool small = type == iq1_m;
  const int n = small ? 16 : 32, sub_blocks = 256 / n, groups = n / 8;
  const float least = small ? iq1_m_negligible : iq1_s_negligible;
  const float sigma2 = 2 * sum_of_squares(x) / 256;
  LatticeBlock b{};
  float scales[16] = {}, max_scale = 0, w[256];
  std::uint8_t shifts[16] = {};
  if (q)
    importance_weights(256, x, q, sigma2, w);
  else
    for (int i = 0; i < 256; ++i) w[i] = x[i] * x[i];
  // Group g of sub-block s: which of the two shifts it has.
  const auto shift_of = [&](int s, int g) { return shifts[s] >> (small && g == 1 ? 0 : 1) & 1; };

  for (int s = 0; s < sub_blocks; ++s) {
    const float *v = x + n * s, *weight = w + n * s;
    float max = 0;
    for (int i = 0; i < n; ++i) max = std::max(max, std::fabs(v[i]));
    if (max < least) continue;
    const auto order = ascending(n, v);
    const Split split = small ? split_of_16(v, weight, order) : split_of_32(v, weight, order);
    if (split.low < 0) continue;
    const bool flipped = split.scale < 0;
    float scale = std::fabs(split.scale);
    shifts[s] = static_cast<std::uint8_t>(flipped ? 3 - split.shift : split.shift);
    std::uint16_t keys[4] = {0, 0, 0, 0};
    for (int j = 0; j < n; ++j) {
      const int i = order[static_cast<std::size_t>(j)], level = j < split.low ? 0 : j < split.high ? 1 : 2;
      keys[i / 8] = points.with(keys[i / 8], i % 8, flipped ? 2 - level : level);
    }
    bool moved = false;
    for (int g = 0; g < groups; ++g) {
      if (!points.has(keys[g])) {
        keys[g] = points.nearest(keys[g], scale, shifted_values[shift_of(s, g)], v + 8 * g, weight + 8 * g);
        moved = true;
      }
      b.index[groups * s + g] = points.index(keys[g]);
    }
    if (moved) {
      float sumqx = 0, sumq2 = 0;
      for (int i = 0; i < n; ++i) {
        const float value = shifted_values[shift_of(s, i / 8)][points.level(keys[i / 8], i % 8)];
        sumqx += weight[i] * value * v[i];
        sumq2 += weight[i] * value * value;
      }
      if (sumqx > 0 && sumq2 > 0) scale = sumqx / sumq2;
    }
    scales[s] = scale;
    max_scale = std::max(max_scale, scale);
  }

  if (max_scale != 0) {
    float d = max_scale / 15;
    const float inverse = 1 / d;
    float sumqx = 0, sumq2 = 0;
    for (int s = 0; s < sub_blocks; ++s) {
      const int code = odd_code(inverse * scales[s], 7);
      b.scales[s] = static_cast<std::uint8_t>(code);
      for (int g = 0; g < groups; ++g) {
        const int at = groups * s + g;
        b.signs[at] = static_cast<std::uint8_t>(shift_of(s, g));
        const std::uint16_t key = points.lattice.keys[b.index[at]];
        for (int i = 0; i < 8; ++i) {
          const float value = shifted_values[b.signs[at]][points.level(key, i)] * static_cast<float>(2 * code + 1);
          sumqx += w[8 * at + i] * value * x[8 * at + i];
          sumq2 += w[8 * at + i] * value * value;
        }
      }
    }
    if (small && sumq2 > 0) d = sumqx / sumq2;
    b.d = d * (small ? iq1_m_enlarged : iq1_s_enlarged);
  }
  pack(type, out, b);
}

// ---- by type -----------------------------------------------------------------------------------------------

void pack(DType type, std::uint8_t* out, const LatticeBlock& b) {
  switch (type) {
    case iq2_xxs:
      return pack_iq2_xxs(out, b);
    case iq2_xs:
      return pack_iq2_xs(out, b);
    case iq2_s:
      return pack_iq2_s(out, b);
    case iq3_xxs:
      return pack_iq3_xxs(out, b);
    case iq3_s:
      return pack_iq3_s(out, b);
    case iq1_s:
      return pack_iq1_s(out, b);
    default:
      return pack_iq1_m(out, b);
  }
}

void unpack(DType type, LatticeBlock& b, const std::uint8_t* in) {
  switch (type) {
    case iq2_xxs:
      return unpack_iq2_xxs(b, in);
    case iq2_xs:
      return unpack_iq2_xs(b, in);
    case iq2_s:
      return unpack_iq2_s(b, in);
    case iq3_xxs:
      return unpack_iq3_xxs(b, in);
    case iq3_s:
      return unpack_iq3_s(b, in);
    case iq1_s:
      return unpack_iq1_s(b, in);
    default:
      return unpack_iq1_m(b, in);
  }
}

constexpr float kIq2Values[3] = {8, 25, 43};
constexpr float kIq3XxsValues[8] = {4, 12, 20, 28, 36, 44, 52, 62};

/// The scale of a sub-block from its code.
float scale_of(DType type, float d, int code) {
  const auto c = static_cast<float>(code);
  if (type == iq3_xxs) return d * (0.5f + c) * 0.5f;
  if (type == iq3_s || type == iq1_s || type == iq1_m) return d * (1 + 2 * c);
  return d * (0.5f + c) * 0.25f;
}

}  // namespace

bool lattice_needs_importance(DType type) { return type == iq2_xxs || type == iq2_xs || type == iq1_s; }

void encode_lattice(DType type, const float* x, const float* q, std::uint8_t* out) {
  if (type == iq1_s || type == iq1_m) return encode_iq1(type, x, q, out);
  encode_signed(type, x, q, out);
}

void decode_lattice(DType type, const std::uint8_t* in, float* y) {
  const Lattice& points = lattice(lattice_of(type));
  LatticeBlock b;
  unpack(type, b, in);
  const bool shifted = type == iq1_s || type == iq1_m;
  const float* values = type == iq3_s ? odd_values : type == iq3_xxs ? kIq3XxsValues : kIq2Values;
  const int sub_block = type == iq2_xs || type == iq2_s || type == iq1_m ? 16 : 32;
  for (int i = 0; i < 256; i += 8) {
    const float scale = scale_of(type, b.d, b.scales[i / sub_block]);
    if (shifted) values = shifted_values[b.signs[i / 8]];
    const int minus = shifted ? 0 : b.signs[i / 8];
    unsigned levels = points.keys[b.index[i / points.values]];
    if (points.values == 4) levels |= static_cast<unsigned>(points.keys[b.index[i / 4 + 1]]) << 12;
    for (int k = 0; k < 8; ++k, levels >>= points.bits) {
      const auto sign = static_cast<float>(1 - 2 * (minus >> k & 1));
      y[i + k] = scale * values[levels & ((1u << points.bits) - 1)] * sign;
    }
  }
}

}  // namespace fettle::kit::block
