// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/attention.h"

#include "fettle_kit/kernels/logarithm.h"
#include "fettle_kit/kernels/scratch.h"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fettle::kit {
namespace {

using std::int64_t;
using std::ptrdiff_t;

constexpr int64_t kKeyTile = 128;    // part of the result: changing it changes bits
constexpr int64_t kQueryRows = 112;  // rows a task aims at: 8 register tiles, enough to pay for packing the keys
constexpr int64_t kMaxHeadDim = 256;
constexpr float kMinusInf = -__builtin_inff();

static_assert(kKeyTile <= kPackedStride && kMaxHeadDim <= kPackedStride);

void check(bool fits, ConstMatrix out, ConstMatrix q, ConstMatrix k, ConstMatrix v, const CausalHeads& h) {
  if (fits) return;
  const auto n = [](int64_t x) { return static_cast<long long>(x); };
  std::fprintf(
      stderr,
      "causal_attention: out [%lld, %lld], q [%lld, %lld], k [%lld, %lld], v [%lld, %lld] do not fit %lld heads, "
      "%lld key-value heads of %lld\n",
      n(out.rows), n(out.cols), n(q.rows), n(q.cols), n(k.rows), n(k.cols), n(v.rows), n(v.cols), n(h.heads),
      n(h.kv_heads), n(h.head_dim));
  std::abort();
}

/// The queries of one task: positions [first, first + count) of every head that shares a key-value head, one row for
/// each (position, head), position by position.
class QueryTile {
 public:
  QueryTile(const CausalHeads& h, const KernelTable& t, ConstMatrix q, int64_t kv_head, int64_t first_query,
            int64_t count, int64_t offset)
      : h_(h),
        t_(t),
        group_(h.heads / h.kv_heads),
        column_(kv_head * group_ * h.head_dim),
        first_query_(first_query),
        first_position_(offset + first_query),
        rows_(count * group_) {
    const int64_t dim = h.head_dim;
    queries_ = scratch(Scratch::x, static_cast<std::size_t>(rows_ * kPackedStride));
    scores_ = scratch(Scratch::scores, static_cast<std::size_t>(t.tile_rows * kPackedStride));
    float* sums = scratch(Scratch::sums, static_cast<std::size_t>(rows_ * (dim + 2)));
    values_ = sums;
    max_ = values_ + rows_ * dim;
    weight_ = max_ + rows_;
    std::fill_n(values_, rows_ * dim, 0.0f);
    std::fill_n(max_, rows_, kMinusInf);
    std::fill_n(weight_, rows_, 0.0f);
    for (int64_t r = 0; r < rows_; ++r)
      t.scale(queries_ + r * kPackedStride, h.scale, q.data + (first_query + r / group_) * q.stride + head_column(r),
              static_cast<std::size_t>(dim));
    if (rows_ <= kThinRows) {
      queries_by_depth_ = scratch(Scratch::rows, static_cast<std::size_t>(rows_ * dim));
      t.transpose(queries_by_depth_, rows_, queries_, kPackedStride, rows_, dim);
    }
  }

  int64_t last_position() const { return position(rows_ - 1); }
  int64_t first_key() const { return first_key(first_position_); }

  /// Adds the keys [start, start + count) and their values: `count` rows of k and v, count <= kKeyTile.
  void add(const float* k, ptrdiff_t k_stride, const float* v, ptrdiff_t v_stride, int64_t start, int64_t count) {
    const int64_t dim = h_.head_dim;
    const bool packed = rows_ > kThinRows;
    const float* packed_v = v;
    ptrdiff_t packed_v_stride = v_stride;
    if (packed) {
      float* keys = scratch(Scratch::w, static_cast<std::size_t>(2 * kKeyTile * kMaxHeadDim));
      t_.transpose(keys, kKeyTile, k, k_stride, count, dim);
      float* copy = keys + kKeyTile * kMaxHeadDim;
      for (int64_t s = 0; s < count; ++s) std::copy_n(v + s * v_stride, dim, copy + s * dim);
      packed_v = copy, packed_v_stride = dim;
      k = keys;
    }
    for (int64_t r0 = 0; r0 < rows_; r0 += t_.tile_rows) {
      const int64_t rows = std::min<int64_t>(t_.tile_rows, rows_ - r0);
      const int64_t seen = std::min(count, position(r0 + rows - 1) + 1 - start);  // keys the last of these rows sees
      if (seen <= 0) continue;
      if (packed) {
        for (int64_t s = 0; s < seen; s += t_.tile_cols)
          t_.tile(scores_ + s, kPackedStride, queries_ + r0 * kPackedStride, k + s, kKeyTile, dim, rows,
                  std::min<int64_t>(t_.tile_cols, seen - s), false);
      } else {
        t_.thin_f32(scores_, kPackedStride, queries_by_depth_, rows_, k, k_stride, seen, dim, false, nullptr);
      }
      weigh(r0, rows, start, seen);
      for (int64_t d = 0; d < dim; d += t_.tile_cols)
        t_.tile(values_ + r0 * dim + d, dim, scores_, packed_v + d, packed_v_stride, seen, rows,
                std::min<int64_t>(t_.tile_cols, dim - d), true);
    }
  }

  void finish(MutMatrix out) const {
    for (int64_t r = 0; r < rows_; ++r) {
      float* to = out.data + (first_query_ + r / group_) * out.stride + head_column(r);
      const float* from = values_ + r * h_.head_dim;
      const float norm = 1.0f / weight_[r];
      // + 0: a zero's sign would tell how many masked keys were multiplied by weight 0.
      for (int64_t d = 0; d < h_.head_dim; ++d) to[d] = from[d] * norm + 0.0f;
    }
  }
  void finish_log_sums(MutMatrix log_sums) const {
    for (int64_t r = 0; r < rows_; ++r)
      log_sums(first_query_ + r / group_, head_column(r) / h_.head_dim) =
          static_cast<float>(double{max_[r]} + natural_log(double{weight_[r]}));
  }

 private:
  int64_t position(int64_t row) const { return first_position_ + row / group_; }
  int64_t first_key(int64_t position) const {
    return h_.window > 0 ? std::max<int64_t>(0, position + 1 - h_.window) : 0;
  }
  int64_t head_column(int64_t row) const { return column_ + row % group_ * h_.head_dim; }

  /// Turns the scores of some rows into weights exp(score - max) and scales what was summed before to the new maximum.
  /// Only the row's own keys count, and those beyond `seen` are zeros in any case, so a row's bits are its own.
  void weigh(int64_t r0, int64_t rows, int64_t start, int64_t seen) {
    const auto dim = static_cast<std::size_t>(h_.head_dim);
    float old_scale[32];
    for (int64_t i = 0; i < rows; ++i) {
      float* row = scores_ + i * kPackedStride;
      const int64_t low = std::clamp<int64_t>(first_key(position(r0 + i)) - start, 0, seen);
      const int64_t high = std::clamp<int64_t>(position(r0 + i) + 1 - start, 0, seen);
      if (h_.softcap > 0) {
        t_.scale(row, 1.0f / h_.softcap, row, static_cast<std::size_t>(high));
        t_.tanh(row, row, static_cast<std::size_t>(high));
        t_.scale(row, h_.softcap, row, static_cast<std::size_t>(high));
      }
      std::fill(row, row + std::max<int64_t>(low, 0), kMinusInf);
      std::fill(row + std::max(high, low), row + seen, kMinusInf);
      const float max = std::max(max_[r0 + i], t_.max(row, static_cast<std::size_t>(seen)));
      old_scale[i] = max == kMinusInf ? 0.0f : max_[r0 + i] - max;
      max_[r0 + i] = max;
    }
    t_.exp(old_scale, old_scale, static_cast<std::size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) {
      float* row = scores_ + i * kPackedStride;
      const int64_t r = r0 + i;
      if (max_[r] == kMinusInf) {  // has seen no key yet
        std::fill(row, row + seen, 0.0f);
        continue;
      }
      const float sum = t_.exp_sum(row, row, max_[r], static_cast<std::size_t>(seen));
      weight_[r] = weight_[r] * old_scale[i] + sum;
      if (old_scale[i] != 1.0f) t_.scale(values_ + r * h_.head_dim, old_scale[i], values_ + r * h_.head_dim, dim);
    }
  }

  const CausalHeads& h_;
  const KernelTable& t_;
  int64_t group_, column_, first_query_, first_position_, rows_;
  float *queries_, *queries_by_depth_ = nullptr, *scores_, *values_, *max_, *weight_;
};

}  // namespace

void causal_attention(MutMatrix out, ConstMatrix q, ConstMatrix k, ConstMatrix v, const CausalHeads& h,
                      const KernelTable& t) {
  causal_attention(out, MutMatrix(), q, k, v, h, t);
}

void causal_attention(MutMatrix out, MutMatrix log_sums, ConstMatrix q, ConstMatrix k, ConstMatrix v,
                      const CausalHeads& h, const KernelTable& t) {
  const int64_t width = h.heads * h.head_dim, kv_width = h.kv_heads * h.head_dim;
  check(h.kv_heads > 0 && h.heads % h.kv_heads == 0 && h.head_dim > 0 && h.head_dim <= kMaxHeadDim && q.cols == width &&
            out.cols == width && out.rows == q.rows && k.cols == kv_width && v.cols == kv_width && k.rows == v.rows &&
            k.rows >= q.rows && (!log_sums.data || (log_sums.rows == q.rows && log_sums.cols == h.heads)),
        out, q, k, v, h);
  if (q.rows == 0) return;
  const int64_t group = h.heads / h.kv_heads, offset = k.rows - q.rows;
  const int64_t positions = std::max<int64_t>(1, kQueryRows / group);
  const int64_t tiles = (q.rows + positions - 1) / positions;
  const auto task = [&](int64_t index) {
    // Late positions see the most keys: they go first.
    const int64_t kv_head = index % h.kv_heads, first = (tiles - 1 - index / h.kv_heads) * positions;
    QueryTile queries(h, t, q, kv_head, first, std::min(positions, q.rows - first), offset);
    const int64_t column = kv_head * h.head_dim, end = queries.last_position() + 1;
    for (int64_t start = queries.first_key() / kKeyTile * kKeyTile; start < end; start += kKeyTile)
      queries.add(k.data + start * k.stride + column, k.stride, v.data + start * v.stride + column, v.stride, start,
                  std::min(kKeyTile, end - start));
    queries.finish(out);
    if (log_sums.data) queries.finish_log_sums(log_sums);
  };
  const int64_t count = tiles * h.kv_heads;
  if (count == 1) return task(0);
  tbb::this_task_arena::isolate([&] { tbb::parallel_for(int64_t{0}, count, task, tbb::simple_partitioner()); });
}

}  // namespace fettle::kit
