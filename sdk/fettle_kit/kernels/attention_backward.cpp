// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/attention_backward.h"

#include "fettle_kit/kernels/scratch.h"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace fettle::kit {
namespace {

using std::int64_t;
using std::ptrdiff_t;

constexpr int64_t kKeyTile = 128, kQueryTile = 112;
constexpr int64_t kMaxHeadDim = 256;

static_assert(kKeyTile <= kPackedStride && kQueryTile <= kPackedStride && kMaxHeadDim <= kPackedStride);

void check(bool fits, ConstMatrix dout, const AttentionPass& p) {
  if (fits) return;
  const auto n = [](int64_t x) { return static_cast<long long>(x); };
  std::fprintf(stderr,
               "attention_backward: dout [%lld, %lld], q [%lld, %lld], k [%lld, %lld], v [%lld, %lld] do not fit %lld "
               "heads, %lld key-value heads of %lld in sequences of %lld\n",
               n(dout.rows), n(dout.cols), n(p.q.rows), n(p.q.cols), n(p.k.rows), n(p.k.cols), n(p.v.rows), n(p.v.cols),
               n(p.heads.heads), n(p.heads.kv_heads), n(p.heads.head_dim), n(p.length));
  std::abort();
}

/// y[i,j] = sum_k a[i,k] b[k,j], any rows and cols.
void product(float* y, ptrdiff_t y_stride, const float* a, const float* b, ptrdiff_t b_stride, int64_t depth,
             int64_t rows, int64_t cols, bool accumulate, const KernelTable& t) {
  for (int64_t j = 0; j < cols; j += t.tile_cols)
    for (int64_t i = 0; i < rows; i += t.tile_rows)
      t.tile(y + i * y_stride + j, y_stride, a + i * kPackedStride, b + j, b_stride, depth,
             std::min<int64_t>(t.tile_rows, rows - i), std::min<int64_t>(t.tile_cols, cols - j), accumulate);
}

/// One key-value head of one sequence.
class HeadGradient {
 public:
  HeadGradient(const AttentionPass& p, ConstMatrix dout, MutMatrix dq, MutMatrix dk, MutMatrix dv, int64_t sequence,
               int64_t kv_head, const KernelTable& t)
      : p_(p),
        h_(p.heads),
        t_(t),
        dout_(dout),
        dq_(dq),
        dk_(dk),
        dv_(dv),
        row0_(sequence * p.length),
        kv_column_(kv_head * p.heads.head_dim),
        group_(p.heads.heads / p.heads.kv_heads),
        first_head_(kv_head * group_) {
    float* next = scratch(Scratch::x, static_cast<std::size_t>((4 * kQueryTile + 2 * kKeyTile) * kPackedStride +
                                                               2 * kKeyTile * kMaxHeadDim + kQueryTile + kKeyTile));
    const auto take = [&](int64_t floats) { return std::exchange(next, next + floats); };
    queries_ = take(kQueryTile * kPackedStride), douts_ = take(kQueryTile * kPackedStride);
    p_rows_ = take(kQueryTile * kPackedStride), ds_rows_ = take(kQueryTile * kPackedStride);
    p_cols_ = take(kKeyTile * kPackedStride), ds_cols_ = take(kKeyTile * kPackedStride);
    keys_by_depth_ = take(kKeyTile * kMaxHeadDim), values_by_depth_ = take(kKeyTile * kMaxHeadDim);
    slope_ = take(kKeyTile);
    dot_ = take(kQueryTile);
  }

  void run() {
    for (int64_t start = 0; start < p_.length; start += kKeyTile) {
      const int64_t keys = std::min(kKeyTile, p_.length - start);
      const float* k = p_.k.data + (row0_ + start) * p_.k.stride + kv_column_;
      const float* v = p_.v.data + (row0_ + start) * p_.v.stride + kv_column_;
      t_.transpose(keys_by_depth_, kKeyTile, k, p_.k.stride, keys, h_.head_dim);
      t_.transpose(values_by_depth_, kKeyTile, v, p_.v.stride, keys, h_.head_dim);
      bool first = true;  // tile that adds to dk and dv
      for (int64_t head = first_head_; head < first_head_ + group_; ++head)
        for (int64_t query = start / kQueryTile * kQueryTile; query < p_.length; query += kQueryTile) {
          const int64_t queries = std::min(kQueryTile, p_.length - query);
          if (first_key(query) >= start + keys) break;  // the window has left these keys behind
          add(head, query, queries, start, keys, k, first);
          first = false;
        }
    }
  }

 private:
  int64_t first_key(int64_t position) const {
    return h_.window > 0 ? std::max<int64_t>(0, position + 1 - h_.window) : 0;
  }

  struct Range {
    int64_t first, count;
  };
  /// Of the keys [start, start + keys), those that any of the positions sees.
  Range keys_seen(int64_t first_position, int64_t last_position, int64_t start, int64_t keys) const {
    const int64_t low = std::clamp<int64_t>(first_key(first_position) - start, 0, keys);
    return {low, std::clamp<int64_t>(last_position + 1 - start, low, keys) - low};
  }

  void add(int64_t head, int64_t query, int64_t queries, int64_t start, int64_t keys, const float* k, bool first) {
    const int64_t dim = h_.head_dim, column = head * dim, row = row0_ + query;
    for (int64_t i = 0; i < queries; ++i) {
      const float* dout = dout_.data + (row + i) * dout_.stride + column;
      t_.scale(queries_ + i * kPackedStride, h_.scale, p_.q.data + (row + i) * p_.q.stride + column,
               static_cast<std::size_t>(dim));
      std::copy_n(dout, dim, douts_ + i * kPackedStride);
      dot_[i] = t_.dot(dout, p_.out.data + (row + i) * p_.out.stride + column, static_cast<std::size_t>(dim));
    }
    // Blocks of 28 rows, two register tiles of AVX-512, skip what the mask hides from all of them. The size is part of
    // the result: a sum that skips zeros may keep another sign of zero.
    constexpr int64_t kBlock = 28;
    for (int64_t i = 0; i < queries; i += kBlock) {
      const int64_t rows = std::min(kBlock, queries - i);
      const Range seen = keys_seen(query + i, query + i + rows - 1, start, keys);
      const int64_t at = i * kPackedStride + seen.first;
      product(p_rows_ + at, kPackedStride, queries_ + i * kPackedStride, keys_by_depth_ + seen.first, kKeyTile, dim,
              rows, seen.count, false, t_);
      product(ds_rows_ + at, kPackedStride, douts_ + i * kPackedStride, values_by_depth_ + seen.first, kKeyTile, dim,
              rows, seen.count, false, t_);
    }
    for (int64_t i = 0; i < queries; ++i) weigh(i, query + i, p_.log_sums(row + i, head), start, keys);

    t_.transpose(p_cols_, kPackedStride, p_rows_, kPackedStride, queries, keys);
    t_.transpose(ds_cols_, kPackedStride, ds_rows_, kPackedStride, queries, keys);
    for (int64_t s = 0; s < keys; s += kBlock) {
      const int64_t rows = std::min(kBlock, keys - s), key = start + s;
      const int64_t i = std::clamp<int64_t>(key - query, 0, queries);  // the first query that sees any of them
      const int64_t at = s * kPackedStride + i, to = row0_ + key;
      product(dv_.data + to * dv_.stride + kv_column_, dv_.stride, p_cols_ + at, douts_ + i * kPackedStride,
              kPackedStride, queries - i, rows, dim, !first, t_);
      product(dk_.data + to * dk_.stride + kv_column_, dk_.stride, ds_cols_ + at, queries_ + i * kPackedStride,
              kPackedStride, queries - i, rows, dim, !first, t_);
    }
    const bool first_of_query = first_key(query) / kKeyTile * kKeyTile == start;
    for (int64_t i = 0; i < queries; i += kBlock) {
      const int64_t rows = std::min(kBlock, queries - i);
      const Range seen = keys_seen(query + i, query + i + rows - 1, start, keys);
      float* const ds = ds_rows_ + i * kPackedStride + seen.first;
      for (int64_t r = 0; r < rows; ++r)
        t_.scale(ds + r * kPackedStride, h_.scale, ds + r * kPackedStride, static_cast<std::size_t>(seen.count));
      product(dq_.data + (row + i) * dq_.stride + column, dq_.stride, ds, k + seen.first * p_.k.stride, p_.k.stride,
              seen.count, rows, dim, !first_of_query, t_);
    }
  }

  /// Scores of a query become P, and dP becomes dS: dscore / d(scale q k').
  void weigh(int64_t i, int64_t position, float log_sum, int64_t start, int64_t keys) {
    float* p = p_rows_ + i * kPackedStride;
    float* ds = ds_rows_ + i * kPackedStride;
    const int64_t low = std::clamp<int64_t>(first_key(position) - start, 0, keys);
    const int64_t high = std::clamp<int64_t>(position + 1 - start, low, keys);
    const auto n = static_cast<std::size_t>(high - low);
    if (h_.softcap > 0) {
      t_.scale(p + low, 1.0f / h_.softcap, p + low, n);
      t_.tanh(slope_, p + low, n);
      t_.scale(p + low, h_.softcap, slope_, n);
    }
    t_.exp_sum(p + low, p + low, log_sum, n);
    for (int64_t s = low; s < high; ++s) ds[s] = p[s] * (ds[s] - dot_[i]);
    if (h_.softcap > 0)
      for (int64_t s = low; s < high; ++s) ds[s] *= 1.0f - slope_[s - low] * slope_[s - low];
    for (float* x : {p, ds}) {
      std::fill(x, x + low, 0.0f);
      std::fill(x + high, x + keys, 0.0f);
    }
  }

  const AttentionPass& p_;
  const CausalHeads& h_;
  const KernelTable& t_;
  ConstMatrix dout_;
  MutMatrix dq_, dk_, dv_;
  int64_t row0_, kv_column_, group_, first_head_;
  float *queries_, *douts_, *p_rows_, *ds_rows_, *p_cols_, *ds_cols_, *keys_by_depth_, *values_by_depth_, *slope_,
      *dot_;
};

}  // namespace

void attention_backward(MutMatrix dq, MutMatrix dk, MutMatrix dv, ConstMatrix dout, const AttentionPass& p,
                        const KernelTable& t) {
  const CausalHeads& h = p.heads;
  const int64_t rows = p.q.rows, width = h.heads * h.head_dim, kv_width = h.kv_heads * h.head_dim;
  const auto is = [rows](ConstMatrix m, int64_t cols) { return m.rows == rows && m.cols == cols; };
  check(h.kv_heads > 0 && h.heads % h.kv_heads == 0 && h.head_dim > 0 && h.head_dim <= kMaxHeadDim && p.length > 0 &&
            rows % p.length == 0 && is(p.q, width) && is(p.out, width) && is(dout, width) && is(dq, width) &&
            is(p.k, kv_width) && is(p.v, kv_width) && is(dk, kv_width) && is(dv, kv_width) && is(p.log_sums, h.heads),
        dout, p);
  const int64_t count = rows / p.length * h.kv_heads;
  tbb::this_task_arena::isolate([&] {
    tbb::parallel_for(
        int64_t{0}, count,
        [&](int64_t i) { HeadGradient(p, dout, dq, dk, dv, i / h.kv_heads, i % h.kv_heads, t).run(); },
        tbb::simple_partitioner());
  });
}

}  // namespace fettle::kit
