// SPDX-License-Identifier: Apache-2.0
// Blocking and threads of the bf16 products; the arithmetic is in the kernel tables.
//
// A task owns a rectangle of y. It walks K in blocks of kDepth; in each it packs its rows of x (they stay in the
// second-level cache) and then, one panel of columns at a time, packs w (it stays in the first) and runs it past all
// the rows. Between blocks of K, which are whole slices, the sums rest in y. So rectangles may follow the number of
// threads without changing the result.
#include "fettle_kit/kernels/gemm_bf16.h"

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

constexpr int64_t kDepth = 512;

void check(bool fits, const char* what, ConstMatrix y, int64_t m, int64_t n, int64_t kx, int64_t kw) {
  if (fits) return;
  std::fprintf(stderr, "%s: y [%lld, %lld] cannot hold [%lld, %lld] x [%lld, %lld]\n", what,
               static_cast<long long>(y.rows), static_cast<long long>(y.cols), static_cast<long long>(m),
               static_cast<long long>(kx), static_cast<long long>(kw), static_cast<long long>(n));
  std::abort();
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

/// Part of an operand whose element (i, k), k along the sum, is the row i or, by depth, the column i.
Bf16Source part(const Bf16Operand& m, bool by_depth, int64_t i, int64_t k) {
  const int64_t at = by_depth ? k * m.stride + i : i * m.stride + k;
  const void* data = m.stored ? static_cast<const void*>(static_cast<const std::uint16_t*>(m.data) + at)
                              : static_cast<const float*>(m.data) + at;
  return {data, m.stride, m.stored, by_depth};
}

/// The rectangles of y that are one task each.
struct Tiling {
  int64_t rows, cols;  ///< of a rectangle; multiples of the panels
  int64_t row_tiles, col_tiles;

  Tiling(int64_t m, int64_t n, int64_t depth, const Bf16Kernels& t) {
    constexpr int64_t kMaxRows = 512;  // of packed x: 0.5 MiB of bf16, a quarter of the second-level cache
    constexpr int64_t kMaxCols = 2048;
    constexpr double kTaskFlops = 16e6;  // some 20 microseconds: far above what a task costs
    const int64_t threads = tbb::this_task_arena::max_concurrency();
    const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(depth);
    const auto wanted =
        static_cast<int64_t>(std::min(4.0 * static_cast<double>(threads), std::max(1.0, flops / kTaskFlops)));
    int64_t row_parts = divide_up(m, kMaxRows), col_parts = divide_up(n, kMaxCols);
    const auto split = [](int64_t size, int64_t parts, int64_t unit) { return round_up(divide_up(size, parts), unit); };
    for (;;) {
      rows = split(m, row_parts, t.tile_rows);
      cols = split(n, col_parts, t.tile_cols);
      row_tiles = divide_up(m, rows);
      col_tiles = divide_up(n, cols);
      if (threads == 1 || row_tiles * col_tiles >= wanted) break;
      if (cols >= rows && cols > t.tile_cols) {
        ++col_parts;
      } else if (rows > t.tile_rows) {
        ++row_parts;
      } else {
        break;
      }
    }
  }
};

void product(MutMatrix y, int64_t depth, const Bf16Operand& x, bool x_by_depth, const Bf16Operand& w, bool w_by_depth,
             bool accumulate, const Bf16Kernels& t) {
  if (y.rows == 0 || y.cols == 0) return;
  if (depth == 0) {
    for (int64_t i = 0; i < y.rows && !accumulate; ++i) std::ranges::fill(y.row(i), 0.0f);
    return;
  }
  const Tiling tiling(y.rows, y.cols, depth, t);
  const auto floats = [&](int64_t rows) {
    return static_cast<std::size_t>(rows * std::min(kDepth, round_up(depth, kBf16Slice)) * t.element_bytes) /
           sizeof(float);
  };
  const auto task = [&](int64_t index) {
    const int64_t i0 = index % tiling.row_tiles * tiling.rows, i1 = std::min(y.rows, i0 + tiling.rows);
    const int64_t j0 = index / tiling.row_tiles * tiling.cols, j1 = std::min(y.cols, j0 + tiling.cols);
    float* const packed_x = scratch(Scratch::x, floats(tiling.rows));
    float* const packed_w = scratch(Scratch::w, floats(t.tile_cols));
    for (int64_t k = 0; k < depth; k += kDepth) {
      const int64_t block = std::min(kDepth, depth - k);
      t.pack_x(packed_x, part(x, x_by_depth, i0, k), i1 - i0, block);
      for (int64_t j = j0; j < j1; j += t.tile_cols) {
        const int64_t cols = std::min<int64_t>(t.tile_cols, j1 - j);
        t.pack_w(packed_w, part(w, w_by_depth, j, k), cols, block);
        t.multiply(y.data + i0 * y.stride + j, y.stride, packed_x, packed_w, i1 - i0, cols, block, accumulate || k > 0);
      }
    }
  };
  const int64_t count = tiling.row_tiles * tiling.col_tiles;
  if (count == 1) return task(0);
  // Isolated: a thread that waits here takes no other work of the caller, which might need what this one holds.
  tbb::this_task_arena::isolate([&] { tbb::parallel_for(int64_t{0}, count, task, tbb::simple_partitioner()); });
}

}  // namespace

void matmul_bf16_nt(MutMatrix y, Bf16Operand x, Bf16Operand w, bool accumulate, const KernelTable& t) {
  check(x.rows == y.rows && w.rows == y.cols && x.cols == w.cols, "matmul_bf16_nt", y, x.rows, w.rows, x.cols, w.cols);
  product(y, x.cols, x, false, w, false, accumulate, *t.bf16);
}

void matmul_bf16_nn(MutMatrix y, Bf16Operand x, Bf16Operand w, bool accumulate, const KernelTable& t) {
  check(x.rows == y.rows && w.cols == y.cols && x.cols == w.rows, "matmul_bf16_nn", y, x.rows, w.cols, x.cols, w.rows);
  product(y, x.cols, x, false, w, true, accumulate, *t.bf16);
}

void matmul_bf16_tn(MutMatrix y, Bf16Operand x, Bf16Operand w, bool accumulate, const KernelTable& t) {
  check(x.cols == y.rows && w.cols == y.cols && x.rows == w.rows, "matmul_bf16_tn", y, x.cols, w.cols, x.rows, w.rows);
  product(y, x.rows, x, true, w, true, accumulate, *t.bf16);
}

}  // namespace fettle::kit
