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

  void add(int64_t head, int64_t query, int64_t queries, int64_t start, int64_t keys, const float* k, bool first) {
    const int64_t dim = h_.head_dim, column = head * dim, row = row0_ + query;
    for (int64_t i = 0; i < queries; ++i) {
      const float* dout = dout_.data + (row + i) * dout_.stride + column;
      t_.scale(queries_ + i * kPackedStride, h_.scale, p_.q.data + (row + i) * p_.q.stride + column,
               static_cast<std::size_t>(dim));
      std::copy_n(dout, dim, douts_ + i * kPackedStride);
      dot_[i] = t_.dot(dout, p_.out.data + (row + i) * p_.out.stride + column, static_cast<std::size_t>(dim));
    }
    product(p_rows_, kPackedStride, queries_, keys_by_depth_, kKeyTile, dim, queries, keys, false, t_);
    product(ds_rows_, kPackedStride, douts_, values_by_depth_, kKeyTile, dim, queries, keys, false, t_);
    for (int64_t i = 0; i < queries; ++i) weigh(i, query + i, p_.log_sums(row + i, head), start, keys);

    t_.transpose(p_cols_, kPackedStride, p_rows_, kPackedStride, queries, keys);
    product(dv_.data + (row0_ + start) * dv_.stride + kv_column_, dv_.stride, p_cols_, douts_, kPackedStride, queries,
            keys, dim, !first, t_);
    t_.transpose(ds_cols_, kPackedStride, ds_rows_, kPackedStride, queries, keys);
    product(dk_.data + (row0_ + start) * dk_.stride + kv_column_, dk_.stride, ds_cols_, queries_, kPackedStride,
            queries, keys, dim, !first, t_);
    for (int64_t i = 0; i < queries; ++i)
      t_.scale(ds_rows_ + i * kPackedStride, h_.scale, ds_rows_ + i * kPackedStride, static_cast<std::size_t>(keys));
    const bool first_of_query = first_key(query) / kKeyTile * kKeyTile == start;
    product(dq_.data + row * dq_.stride + column, dq_.stride, ds_rows_, k, p_.k.stride, keys, queries, dim,
            !first_of_query, t_);
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
