// SPDX-License-Identifier: Apache-2.0
// The quantizers of tensor/lattice_codec.cpp in lanes, included at the end of gguf_lanes.inl, whose tools they use.
// Sixteen sub-blocks lie in sixteen lanes, but for the search among the neighbours of a key, which takes most of the
// time: there the lanes hold sixteen neighbours of one sub-block, whose levels choose among the few errors that each
// value can have.

// ---- points ------------------------------------------------------------------------------------------------

/// Rows of lanes: out[j * n + i] = tile[i] lane j.
template <int n>
inline void store_rows(float* out, const F* tile) {
  float columns[16][kLanes];
  const float* at[16];
  F rows[kLanes];
  for (int i = 0; i < n; i += 16) {
    for (int k = 0; k < 16; ++k) {
      store(columns[k], tile[i + k]);
      at[k] = columns[k];
    }
    transpose(rows, at);
    for (int j = 0; j < kLanes; ++j) store(out + j * n + i, rows[j]);
  }
}

/// What value i of a group contributes for the level it has in a key: eight values of three levels, or four of eight.
template <int values>
inline F pick(F by_level, I keys, int i) {
  return values == 8 ? lookup4(by_level, shifted_right(keys, 2 * i)) : lookup8(by_level, shifted_right(keys, 3 * i));
}

/// What each level stands for, as often as it fits into sixteen lanes: four or eight of them by turns.
template <int values>
inline F level_table(const float* of_levels, int levels) {
  constexpr int stride = values == 8 ? 4 : 8;
  float table[kLanes];
  for (int j = 0; j < kLanes; ++j) table[j] = j % stride < levels ? of_levels[j % stride] : 0.0f;
  return load(table);
}

/// The point of a list of neighbours that is nearest to x, as Points::nearest finds it.
template <int values>
inline uint16_t nearest_point(const uint16_t* list, F level_values, float scale, const float* x, const float* w) {
  constexpr float infinite = 3.402823466e+38f;
  F error[values];
  const F scaled = set(scale) * level_values;
  for (int i = 0; i < values; ++i) {
    const F difference = scaled - set(x[i]);
    error[i] = set(w[i]) * difference * difference;
  }
  const auto errors = [&](int at) {
    const I keys = load_keys(list + 1 + at);
    F sum = pick<values>(error[0], keys, 0);
    for (int i = 1; i < values; ++i) sum = sum + pick<values>(error[i], keys, i);
    return sum;
  };
  F sum = errors(0), least = min_of(sum, set(infinite));
  const int count = list[0];
  if (count <= kLanes) {
    const F best = smallest(least);
    const unsigned found = bits_of((sum == best) & (best < set(infinite)));
    return list[1 + (found == 0 ? 0 : __builtin_ctz(found))];
  }
  float sums[2048 + kLanes];
  for (int at = 0; at < count; at += kLanes) {
    if (at > 0) sum = errors(at);
    least = min_of(sum, least);
    store(sums + at, sum);
  }
  const F best = smallest(least);
  if (!any(best < set(infinite))) return list[1];
  for (int at = 0;; at += kLanes)
    if (const unsigned found = bits_of(load(sums + at) == best); found != 0)
      return list[1 + at + __builtin_ctz(found)];
}

/// The code l in 0 .. top for which 2 l + 1 is nearest to v.
inline F odd_code(F v, int top) { return clamped(nearest(set(0.5f) * (v - set(1))), 0, static_cast<float>(top)); }

/// What the searches find, block by block.
struct LatticeBatch {
  block::LatticeBlock blocks[kLanes];
  float scales[kLanes][16];

  /// Codes of the scales of a block from the scales: in units of max / units. Returns the unit, or 0 if all are 0.
  float code_scales(int j, int sub_blocks, float units, int top) {
    float max = 0;
    for (int s = 0; s < sub_blocks; ++s) max = max_float(scales[j][s], max);
    if (max == 0) return 0;
    const float d = max / units;
    float codes[kLanes];
    store(codes, odd_code(set(1 / d) * load(scales[j]), top));
    for (int s = 0; s < sub_blocks; ++s) blocks[j].scales[s] = static_cast<uint8_t>(codes[s]);
    return d;
  }
};

// ---- signs apart: IQ2 and IQ3 ------------------------------------------------------------------------------

template <const block::SignedSearch& how>
class SignedLanes {
 public:
  static constexpr int values = how.top > 5 ? 4 : 8;
  static constexpr int n = how.sub_block, groups = n / values, per_block = 256 / n, levels = how.top > 5 ? 8 : 3,
                       bits = how.top > 5 ? 3 : 2;

  explicit SignedLanes(block::LatticeTables tables)
      : tables_(tables), odd_(level_table<values>(block::odd_values, levels)) {}

  /// Sub-blocks 16 g to 16 g + 15 of the batch. sigma: mean square of each block times what `how` says.
  void run(LatticeBatch& out, const Batch& batch, bool weighted, const float* sigma, int g) {
    F x[n];
    load_group(x, batch.x, g, per_block, n);
    weights(x, batch, weighted, sigma, g);
    F signs[n / 8];
    split_signs(x, signs);
    const M dead = search();
    float scale[kLanes], sign_bits[n / 8][kLanes];
    store(scale, select(dead, set(0), scale_));
    for (int k = 0; k < n / 8; ++k) store(sign_bits[k], signs[k]);
    const unsigned none = bits_of(dead);
    for (int j = 0; j < kLanes; ++j) {
      const int flat = g * kLanes + j, b = flat / per_block, s = flat % per_block;
      block::LatticeBlock& to = out.blocks[b];
      out.scales[b][s] = __builtin_fabsf(scale[j]);
      for (int k = 0; k < n / 8; ++k) {
        const auto bits = static_cast<uint8_t>(sign_bits[k][j]);
        to.signs[n / 8 * s + k] = static_cast<uint8_t>((none >> j & 1) != 0 ? 0 : scale[j] < 0 ? ~bits : bits);
      }
      for (int k = 0; k < groups; ++k)
        to.index[groups * s + k] = static_cast<uint16_t>((none >> j & 1) != 0 ? 0 : tables_.place[keys_[k][j]]);
    }
  }

 private:
  void weights(const F* x, const Batch& batch, bool weighted, const float* sigma, int g) {
    float lanes[kLanes];
    for (int j = 0; j < kLanes; ++j) lanes[j] = sigma[(g * kLanes + j) / per_block];
    if (weighted) {
      F q[n];
      load_group(q, batch.q, g, per_block, n);
      weigh(n, x, q, load(lanes), w_);
    } else if (how.lattice == block::LatticeName::iq2_s) {
      for (int i = 0; i < n; ++i) w_[i] = set(0.25f) * load(lanes) + x[i] * x[i];
    } else {
      for (int i = 0; i < n; ++i) w_[i] = x[i] * x[i];
    }
  }

  void split_signs(const F* x, F* signs) {
    for (int k = 0; k < n; k += 8) {
      M minus[8];
      F parity = set(1), least = set(0), least_weight = w_[k] * x[k] * x[k];
      for (int i = 0; i < 8; ++i) {
        minus[i] = ~(x[k + i] >= set(0));
        x_[k + i] = select(minus[i], negated(x[k + i]), x[k + i]);
        parity = select(minus[i], negated(parity), parity);
        if (i == 0) continue;
        const F weight = w_[k + i] * x[k + i] * x[k + i];
        const M less = weight < least_weight;
        least_weight = select(less, weight, least_weight);
        least = select(less, set(static_cast<float>(i)), least);
      }
      F bits = set(0);
      for (int i = 0; i < 8; ++i) {
        if (how.even_signs) {
          const M flip = (parity < set(0)) & (least == set(static_cast<float>(i)));
          x_[k + i] = select(flip, negated(x_[k + i]), x_[k + i]);
          minus[i] = (minus[i] | flip) & ~(minus[i] & flip);
        }
        bits = select(minus[i], bits + set(static_cast<float>(1 << i)), bits);
      }
      signs[k / 8] = bits;
    }
  }

  /// Leaves the points in keys_ and the scale in scale_; returns the lanes that have none.
  M search() {
    F max = x_[0];
    for (int i = 1; i < n; ++i) max = max_of(x_[i], max);
    M dead = max < set(how.negligible);
    if (how.from_best_fit) {
      F codes[n];
      max = search_positive<n, 4, true>(x_, w_, codes) * set(3);
      dead = dead | ~(max > set(0));
    }
    max = select(dead, set(1), max);
    F roots[n];
    for (int i = 0; i < n; ++i) {
      roots[i] = sqrt_of(w_[i]);
      wx_[i] = w_[i] * x_[i];
    }
    store_rows<n>(x_rows_, x_);
    store_rows<n>(root_rows_, roots);

    const unsigned alive = bits_of(~dead);
    unsigned wanted[groups];  // lanes whose group has the very levels it wanted
    for (int k = 0; k < groups; ++k) {
      wanted[k] = how.again == block::SignedSearch::Again::neighbours ? ~0u : 0u;
      for (int j = 0; j < kLanes; ++j) keys_[k][j] = 0;
    }
    scale_ = how.from_best_fit ? max / set(3) : max / set(how.top);
    F best = set(0);
    for (int t = -how.tries; t <= how.tries; ++t) {
      const F inverse = set(how.top + static_cast<float>(t) * how.step) / max;
      uint16_t trial[groups][kLanes];
      unsigned trial_wanted[groups];
      F scale = set(1) / inverse;
      for (int k = 0; k < groups; ++k) trial_wanted[k] = points(k, inverse, scale, alive, trial[k]);
      const Sums sum = sums(trial);
      const M better = (sum.q2 > set(0)) & (sum.qx * sum.qx > best * sum.q2);
      const unsigned lanes = bits_of(better);
      if (lanes == 0) continue;
      scale = sum.qx / sum.q2;
      scale_ = select(better, scale, scale_);
      best = select(better, scale * sum.qx, best);
      for (int k = 0; k < groups; ++k) {
        wanted[k] = (trial_wanted[k] & lanes) | (wanted[k] & ~lanes);
        replace_keys(keys_[k], trial[k], better);
      }
    }

    unsigned again = bits_of(scale_ > set(0)) & alive, all_wanted = ~0u;
    for (int k = 0; k < groups; ++k) all_wanted &= wanted[k];
    if (how.again != block::SignedSearch::Again::all) again &= ~all_wanted;
    if (again != 0) {
      const F inverse = set(1) / scale_;
      for (int k = 0; k < groups; ++k) {
        const unsigned lanes = how.again == block::SignedSearch::Again::neighbours ? again & ~wanted[k] : again;
        if (lanes == 0) continue;
        uint16_t trial[kLanes];
        points(k, inverse, scale_, lanes, trial);
        replace_keys(keys_[k], trial, mask_of(lanes));
      }
      const Sums sum = sums(keys_);
      scale_ = select(mask_of(again) & (sum.q2 > set(0)), sum.qx / sum.q2, scale_);
    }
    return dead;
  }

  /// The points of group k for a scale, in the given lanes; returns those whose levels are a point.
  unsigned points(int k, F inverse, F scale, unsigned lanes, uint16_t* keys) const {
    F key = set(0);
    for (int i = 0; i < values; ++i)
      key = key + odd_code(inverse * x_[k * values + i], levels - 1) * set(static_cast<float>(1 << (bits * i)));
    store_keys(keys, key);
    float scales[kLanes];
    store(scales, scale);
    unsigned off = 0;  // lanes whose levels are no point: told without a branch, which nobody could foretell
    for (int j = 0; j < kLanes; ++j) off |= static_cast<uint32_t>(tables_.place[keys[j]]) >> 31 << j;
    const unsigned wanted = ~off;
    for (off &= lanes; off != 0; off &= off - 1) {
      const int j = __builtin_ctz(off);
      keys[j] = nearest_point<values>(tables_.neighbours + ~tables_.place[keys[j]], odd_, scales[j],
                                      x_rows_ + j * n + k * values, root_rows_ + j * n + k * values);
    }
    return wanted;
  }

  struct Sums {
    F qx, q2;
  };
  Sums sums(const uint16_t (*keys)[kLanes]) const {
    Sums out{set(0), set(0)};
    for (int k = 0; k < groups; ++k) {
      const I key = load_keys(keys[k]);
      for (int i = 0; i < values; ++i) {
        const F q = pick<values>(odd_, key, i);
        out.qx = out.qx + wx_[k * values + i] * q;
        out.q2 = out.q2 + w_[k * values + i] * q * q;
      }
    }
    return out;
  }

  block::LatticeTables tables_;
  F odd_;
  F x_[n], w_[n], wx_[n], scale_;
  float x_rows_[kLanes * n], root_rows_[kLanes * n];
  uint16_t keys_[groups][kLanes];
};

template <const block::SignedSearch& how, int bytes, void (*pack)(uint8_t*, const block::LatticeBlock&)>
void quantize_signed(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  const int64_t blocks = rows * cols / 256;
  SignedLanes<how> lanes(block::lattice_tables(how.lattice));
  constexpr int per_block = SignedLanes<how>::per_block;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 256);
    const int present = static_cast<int>(blocks - first < kLanes ? blocks - first : kLanes);
    float sigma[kLanes];
    store(sigma, set(how.sigma) * sums_of_squares(batch.x, 256) / set(256));
    LatticeBatch found{};
    for (int g = 0; g * kLanes < present * per_block; ++g) lanes.run(found, batch, importance != nullptr, sigma, g);
    for (int j = 0; j < present; ++j) {
      block::LatticeBlock& b = found.blocks[j];
      const float d = found.code_scales(j, per_block, 31, 15);
      b.d = d * how.enlarged;
      if (d == 0 && how.even_signs) b = {};
      pack(out + (first + j) * bytes, b);
    }
  }
  leave_lanes();
}

// ---- three levels around a shifted zero: IQ1 ---------------------------------------------------------------

/// Sub-blocks of n values: 32 of IQ1_S, which are shifted the same way, or 16 of IQ1_M, whose halves are shifted apart.
template <int n>
class ShiftedLanes {
 public:
  static constexpr int per_block = 256 / n, groups = n / 8;
  static constexpr float negligible = n == 16 ? block::iq1_m_negligible : block::iq1_s_negligible;

  explicit ShiftedLanes(block::LatticeTables tables) : tables_(tables) {
    for (int shift = 0; shift < 2; ++shift) values_[shift] = level_table<8>(block::shifted_values[shift], 3);
  }

  /// As SignedLanes::run; signs are set even where all scales of a block turn out 0.
  void run(LatticeBatch& out, const Batch& batch, bool weighted, const float* sigma, int g) {
    F x[n], w[n], place[n];
    load_group(x, batch.x, g, per_block, n);
    if (weighted) {
      F q[n];
      float lanes[kLanes];
      load_group(q, batch.q, g, per_block, n);
      for (int j = 0; j < kLanes; ++j) lanes[j] = sigma[(g * kLanes + j) / per_block];
      weigh(n, x, q, load(lanes), w);
    } else {
      for (int i = 0; i < n; ++i) w[i] = x[i] * x[i];
    }
    float x_rows[kLanes * n], w_rows[kLanes * n];
    store_rows<n>(x_rows, x);
    store_rows<n>(w_rows, w);
    F max = set(0);
    for (int i = 0; i < n; ++i) {
      max = max_of(abs_of(x[i]), max);
      place[i] = set(static_cast<float>(i));
    }
    sort(x, w, place);
    low_ = high_ = shift_ = set(-1);
    scale_ = set(0);
    score_ = set(-3.402823466e+38f);
    if constexpr (n == 32)
      split_of_32(x, w);
    else
      split_of_16(x, w, place);

    const unsigned alive = bits_of(~((max < set(negligible)) | (low_ < set(0))));
    const M flipped = scale_ < set(0);
    float scales[kLanes], shifts[kLanes];
    store(scales, abs_of(scale_));
    store(shifts, select(flipped, set(3) - shift_, shift_));
    uint8_t places[n * kLanes], levels[n * kLanes];
    for (int i = 0; i < n; ++i) {
      const F at = set(static_cast<float>(i));
      const F level = select(at < low_, set(0), select(at < high_, set(1), set(2)));
      store_bytes(levels + i * kLanes, select(flipped, set(2) - level, level));
      store_bytes(places + i * kLanes, place[i]);
    }
    for (int j = 0; j < kLanes; ++j) {
      const int flat = g * kLanes + j, b = flat / per_block, s = flat % per_block;
      out.scales[b][s] = 0;
      for (int k = 0; k < groups; ++k) out.blocks[b].index[groups * s + k] = out.blocks[b].signs[groups * s + k] = 0;
      if ((alive >> j & 1) == 0) continue;
      uint16_t keys[groups] = {};
      for (int i = 0; i < n; ++i) {
        const int at = places[i * kLanes + j];
        keys[at / 8] = static_cast<uint16_t>(keys[at / 8] | levels[i * kLanes + j] << 2 * (at % 8));
      }
      const auto shift = static_cast<unsigned>(shifts[j]);
      const unsigned shift_of[2] = {shift >> 1, n == 16 ? shift & 1 : shift >> 1};
      out.scales[b][s] = points(x_rows + j * n, w_rows + j * n, scales[j], keys, shift_of);
      for (int k = 0; k < groups; ++k) {
        out.blocks[b].index[groups * s + k] = static_cast<uint16_t>(tables_.place[keys[k]]);
        out.blocks[b].signs[groups * s + k] = static_cast<uint8_t>(shift_of[k % 2]);
      }
    }
  }

 private:
  static void exchange(F* x, F* w, F* place, int a, int b) {
    const M swap = (x[b] < x[a]) | ((x[b] == x[a]) & (place[b] < place[a]));
    const auto swap_in = [&](F* tile) {
      const F first = tile[a];
      tile[a] = select(swap, tile[b], first);
      tile[b] = select(swap, first, tile[b]);
    };
    swap_in(x);
    swap_in(w);
    swap_in(place);
  }
  /// Ascending, equal values in the order of their places: Batcher's odd-even merge sort.
  static void sort(F* x, F* w, F* place) {
    for (int run = 1; run < n; run *= 2)
      for (int step = run; step >= 1; step /= 2)
        for (int from = step % run; from + step < n; from += 2 * step)
          for (int i = from; i < from + step && i + step < n; ++i)
            if (i / (2 * run) == (i + step) / (2 * run)) exchange(x, w, place, i, i + step);
  }

  void consider(int low, int high, int shift, F sumqx, F sumq2) {
    const M better = (sumq2 > set(0)) & (sumqx * sumqx > score_ * sumq2);
    if (!any(better)) return;
    const F scale = sumqx / sumq2;
    scale_ = select(better, scale, scale_);
    score_ = select(better, scale * sumqx, score_);
    low_ = select(better, set(static_cast<float>(low)), low_);
    high_ = select(better, set(static_cast<float>(high)), high_);
    shift_ = select(better, set(static_cast<float>(shift)), shift_);
  }

  void split_of_32(const F* x, const F* w) {
    F sumx[33], sumw[33];
    sumx[0] = sumw[0] = set(0);
    for (int i = 0; i < 32; ++i) {
      sumx[i + 1] = sumx[i] + w[i] * x[i];
      sumw[i + 1] = sumw[i] + w[i];
    }
    F tail_x[2][33], tail_w[2][33];
    for (int shift = 0; shift < 2; ++shift)
      for (int high = 0; high <= 32; ++high) {
        const F v = set(block::shifted_values[shift][2]);
        tail_x[shift][high] = (sumx[32] - sumx[high]) * v;
        tail_w[shift][high] = (sumw[32] - sumw[high]) * v * v;
      }
    for (int low = 0; low <= 32; ++low) {
      F head_x[2], head_w[2];
      for (int shift = 0; shift < 2; ++shift) {
        const F v = set(block::shifted_values[shift][0]);
        head_x[shift] = (sumx[low] - sumx[0]) * v;
        head_w[shift] = (sumw[low] - sumw[0]) * v * v;
      }
      for (int high = low; high <= 32; ++high)
        for (int shift = 0; shift < 2; ++shift) {
          const F v = set(block::shifted_values[shift][1]);
          const F sumqx = head_x[shift] + (sumx[high] - sumx[low]) * v + tail_x[shift][high];
          const F sumq2 = head_w[shift] + (sumw[high] - sumw[low]) * v * v + tail_w[shift][high];
          consider(low, high, shift == 0 ? 0 : 3, sumqx, sumq2);
        }
    }
  }

  void split_of_16(const F* x, const F* w, const F* place) {
    // What each value adds to the sums at each level, for each of the four ways to shift the halves.
    F qx[3][16][4], q2[3][16][4];
    for (int level = 0; level < 3; ++level)
      for (int i = 0; i < 16; ++i) {
        const F up = set(block::shifted_values[0][level]), down = set(block::shifted_values[1][level]);
        const F x_up = w[i] * up * x[i], x_down = w[i] * down * x[i];
        const F w_up = w[i] * up * up, w_down = w[i] * down * down;
        const M first_half = place[i] < set(8);
        qx[level][i][0] = x_up;
        qx[level][i][1] = select(first_half, x_up, x_down);
        qx[level][i][2] = select(first_half, x_down, x_up);
        qx[level][i][3] = x_down;
        q2[level][i][0] = w_up;
        q2[level][i][1] = select(first_half, w_up, w_down);
        q2[level][i][2] = select(first_half, w_down, w_up);
        q2[level][i][3] = w_down;
      }
    F head_x[4] = {set(0), set(0), set(0), set(0)}, head_w[4] = {set(0), set(0), set(0), set(0)};
    for (int low = 0; low <= 16; ++low) {
      F middle_x[4], middle_w[4];
      for (int k = 0; k < 4; ++k) {
        middle_x[k] = head_x[k];
        middle_w[k] = head_w[k];
      }
      for (int high = low; high <= 16; ++high) {
        for (int k = 0; k < 4; ++k) {
          F sumqx = middle_x[k], sumq2 = middle_w[k];
          for (int i = high; i < 16; ++i) {
            sumqx = sumqx + qx[2][i][k];
            sumq2 = sumq2 + q2[2][i][k];
          }
          consider(low, high, k, sumqx, sumq2);
        }
        for (int k = 0; k < 4 && high < 16; ++k) {
          middle_x[k] = middle_x[k] + qx[1][high][k];
          middle_w[k] = middle_w[k] + q2[1][high][k];
        }
      }
      for (int k = 0; k < 4 && low < 16; ++k) {
        head_x[k] = head_x[k] + qx[0][low][k];
        head_w[k] = head_w[k] + q2[0][low][k];
      }
    }
  }

  /// Replaces keys that are no points; returns the scale, a new one if there were any.
  float points(const float* x, const float* w, float scale, uint16_t* keys, const unsigned* shift_of) const {
    bool moved = false;
    for (int k = 0; k < groups; ++k) {
      const int32_t place = tables_.place[keys[k]];
      if (place >= 0) continue;
      keys[k] = nearest_point<8>(tables_.neighbours + ~place, values_[shift_of[k % 2]], scale, x + 8 * k, w + 8 * k);
      moved = true;
    }
    if (!moved) return scale;
    float sumqx = 0, sumq2 = 0;
    for (int i = 0; i < n; ++i) {
      const float v = block::shifted_values[shift_of[i / 8 % 2]][keys[i / 8] >> 2 * (i % 8) & 3];
      sumqx += w[i] * v * x[i];
      sumq2 += w[i] * v * v;
    }
    return sumqx > 0 && sumq2 > 0 ? sumqx / sumq2 : scale;
  }

  block::LatticeTables tables_;
  F values_[2];
  F low_, high_, shift_, scale_, score_;
};

/// The least-squares scale of a block of IQ1_M whose codes are chosen; 0 if there is none.
inline float fitted_scale(const block::LatticeBlock& b, block::LatticeTables tables, const float* x, const float* q,
                          float sigma2) {
  float w[256], sumqx = 0, sumq2 = 0;
  for (int i = 0; i < 256; i += kLanes) {
    const F v = load(x + i);
    store(w + i, q ? load(q + i) * sqrt_of(set(sigma2) + v * v) : v * v);
  }
  for (int i = 0; i < 256; ++i) {
    const int level = tables.keys[b.index[i / 8]] >> 2 * (i % 8) & 3;
    const float v = block::shifted_values[b.signs[i / 8]][level] * static_cast<float>(2 * b.scales[i / 16] + 1);
    sumqx += w[i] * v * x[i];
    sumq2 += w[i] * v * v;
  }
  return sumq2 > 0 ? sumqx / sumq2 : 0.0f;
}

template <int n>
void quantize_iq1(const float* x, uint8_t* out, int64_t rows, int64_t cols, const float* importance) {
  const int64_t blocks = rows * cols / 256;
  const block::LatticeTables tables = block::lattice_tables(block::LatticeName::iq1);
  ShiftedLanes<n> lanes(tables);
  constexpr int per_block = ShiftedLanes<n>::per_block;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    const Batch batch = batch_of(x, importance, cols, first, blocks, 256);
    const int present = static_cast<int>(blocks - first < kLanes ? blocks - first : kLanes);
    float sigma[kLanes];
    store(sigma, set(2) * sums_of_squares(batch.x, 256) / set(256));
    LatticeBatch found{};
    for (int g = 0; g * kLanes < present * per_block; ++g) lanes.run(found, batch, importance != nullptr, sigma, g);
    for (int j = 0; j < present; ++j) {
      block::LatticeBlock& b = found.blocks[j];
      float d = found.code_scales(j, per_block, 15, 7);
      if (d == 0)
        for (uint8_t& shift : b.signs) shift = 0;
      else if (n == 16)
        if (const float fitted = fitted_scale(b, tables, batch.x[j], importance ? batch.q[j] : nullptr, sigma[j]);
            fitted != 0)
          d = fitted;
      b.d = d * (n == 16 ? block::iq1_m_enlarged : block::iq1_s_enlarged);
      if (n == 16)
        block::pack_iq1_m(out + (first + j) * 56, b);
      else
        block::pack_iq1_s(out + (first + j) * 50, b);
    }
  }
  leave_lanes();
}
