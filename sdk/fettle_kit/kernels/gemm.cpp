// SPDX-License-Identifier: Apache-2.0
// Blocking and threads of the matrix products; the arithmetic is in the kernel tables.
//
// A task owns a rectangle of y. It walks K in blocks of kBlockDepth; in each it packs its rows of x (they stay in the
// second-level cache) and then, 32 columns at a time, packs a panel of w (it stays in the first) and runs it past all
// the rows. Between blocks of K the sums rest in y, which keeps every bit. As every element is one chain in index
// order, the rectangles may follow the number of threads without changing the result.
#include "fettle_kit/kernels/gemm.h"

#include "fettle_kit/kernels/panels.h"
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

void check(bool fits, const char* what, ConstMatrix y, int64_t m, int64_t n, int64_t kx, int64_t kw) {
  if (fits) return;
  std::fprintf(stderr, "%s: y [%lld, %lld] cannot hold [%lld, %lld] x [%lld, %lld]\n", what,
               static_cast<long long>(y.rows), static_cast<long long>(y.cols), static_cast<long long>(m),
               static_cast<long long>(kx), static_cast<long long>(kw), static_cast<long long>(n));
  std::abort();
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }
/// The size of parts about equal, none larger than `most`.
int64_t even_part(int64_t size, int64_t most) { return divide_up(size, divide_up(size, most)); }

/// Runs body(i) for i < count on the caller's arena. Isolated: a thread that waits here takes no other work of the
/// caller, which might need what this one holds.
template <class Body>
void parallel(int64_t count, const Body& body) {
  if (count == 1) return body(int64_t{0});
  tbb::this_task_arena::isolate([&] { tbb::parallel_for(int64_t{0}, count, body, tbb::simple_partitioner()); });
}

/// The rectangles of y that are one task each.
struct Tiling {
  int64_t rows, cols;  ///< of a rectangle; multiples of the register tile
  int64_t row_tiles, col_tiles;

  Tiling(int64_t m, int64_t n, int64_t depth, const KernelTable& t) {
    constexpr int64_t kMaxRows = 518;  // of packed x: 1 MiB, half of the second-level cache
    constexpr int64_t kMaxCols = 4096;
    constexpr double kTaskFlops = 4e6;  // some 20 microseconds: far above what a task costs
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

/// [depth, cols] of w.
struct Panel {
  const float* data;
  ptrdiff_t stride;
};

/// y = x w by blocks.
///   x.pack(to, i, rows, k, depth)         writes rows of x kPackedStride apart
///   w.panel(to, j, cols, k, depth)        returns a panel of w, in `to` or wherever it lies already
template <class X, class W>
void blocked_product(MutMatrix y, int64_t depth, bool accumulate, const KernelTable& t, const X& x, const W& w) {
  if (y.rows == 0 || y.cols == 0) return;
  const Tiling tiling(y.rows, y.cols, depth, t);
  parallel(tiling.row_tiles * tiling.col_tiles, [&](int64_t task) {
    const int64_t i0 = task % tiling.row_tiles * tiling.rows, i1 = std::min(y.rows, i0 + tiling.rows);
    const int64_t j0 = task / tiling.row_tiles * tiling.cols, j1 = std::min(y.cols, j0 + tiling.cols);
    float* const packed_x = scratch(Scratch::x, static_cast<std::size_t>(tiling.rows * kPackedStride));
    float* const packed_w = scratch(Scratch::w, static_cast<std::size_t>(t.tile_cols * kBlockDepth));
    const int64_t rows = even_part(i1 - i0, t.tile_rows);
    int64_t k = 0;
    do {
      const int64_t block = std::min<int64_t>(kBlockDepth, depth - k);
      x.pack(packed_x, i0, i1 - i0, k, block);
      for (int64_t j = j0; j < j1; j += t.tile_cols) {
        const int64_t cols = std::min<int64_t>(t.tile_cols, j1 - j);
        const Panel panel = w.panel(packed_w, j, cols, k, block);
        for (int64_t i = i0; i < i1; i += rows)
          t.tile(y.data + i * y.stride + j, y.stride, packed_x + (i - i0) * kPackedStride, panel.data, panel.stride,
                 block, std::min(rows, i1 - i), cols, accumulate || k > 0);
      }
      k += block;
    } while (k < depth);
  });
}

/// x [M, K] of a product, given as it is.
struct RowsOfX {
  ConstMatrix x;
  void pack(float* to, int64_t i, int64_t rows, int64_t k, int64_t depth) const {
    for (int64_t r = 0; r < rows; ++r) std::copy_n(x.data + (i + r) * x.stride + k, depth, to + r * kPackedStride);
  }
};

/// x given as [K, M].
struct ColsOfX {
  ConstMatrix x;
  const KernelTable& t;
  void pack(float* to, int64_t i, int64_t rows, int64_t k, int64_t depth) const {
    t.transpose(to, kPackedStride, x.data + k * x.stride + i, x.stride, depth, rows);
  }
};

/// w given as [N, K].
struct RowsOfW {
  ConstMatrix w;
  const KernelTable& t;
  Panel panel(float* to, int64_t j, int64_t cols, int64_t k, int64_t depth) const {
    t.transpose(to, t.tile_cols, w.data + j * w.stride + k, w.stride, cols, depth);
    return {to, t.tile_cols};
  }
};

/// w given as [K, N]. With few rows of x, copying a panel would cost as much as the product.
struct ColsOfW {
  ConstMatrix w;
  bool in_place;
  Panel panel(float* to, int64_t j, int64_t cols, int64_t k, int64_t depth) const {
    const float* from = w.data + k * w.stride + j;
    if (in_place) return {from, w.stride};
    for (int64_t r = 0; r < depth; ++r) std::copy_n(from + r * w.stride, cols, to + r * cols);
    return {to, cols};
  }
};

/// w [N, K] as it is stored.
struct StoredW {
  const StoredMatrix& w;
  const DTypeInfo& type;
  std::size_t row_bytes;
  const KernelTable& t;

  bool halves() const { return reinterpret_cast<std::uintptr_t>(w.data) % alignof(std::uint16_t) == 0; }
  const std::byte* at(int64_t row, int64_t k) const {
    return w.data + static_cast<std::size_t>(row) * row_bytes +
           static_cast<std::size_t>(k / type.block_elems * type.block_bytes);
  }
  /// Elements [k, k + depth) of a row; k is a multiple of the dtype's block.
  void widen(float* to, int64_t row, int64_t k, int64_t depth) const {
    const std::byte* from = at(row, k);
    const auto n = static_cast<std::size_t>(depth);
    if (w.dtype == DType::bf16 && halves()) return t.bf16_to_f32(to, reinterpret_cast<const std::uint16_t*>(from), n);
    if (w.dtype == DType::f16 && halves()) return t.f16_to_f32(to, reinterpret_cast<const std::uint16_t*>(from), n);
    type.to_f32(from, to, n);
  }
  Panel panel(float* to, int64_t j, int64_t cols, int64_t k, int64_t depth) const {
    float* const rows = scratch(Scratch::rows, static_cast<std::size_t>(t.tile_cols * kPackedStride));
    for (int64_t c = 0; c < cols; ++c) widen(rows + c * kPackedStride, j + c, k, depth);
    t.transpose(to, t.tile_cols, rows, kPackedStride, cols, depth);
    return {to, t.tile_cols};
  }
};

constexpr int64_t kGroup = 16;  // rows of w that a kernel takes together

/// Weights that a kernel reads as they are stored.
template <class Number>
struct AsStored {
  void (*kernel)(float*, ptrdiff_t, const float*, ptrdiff_t, const Number*, ptrdiff_t, ptrdiff_t, ptrdiff_t, bool,
                 const void*);
  const Number* data;
  int64_t stride;
  int64_t block_elems = 1, block_numbers = 1;  ///< elements of a block of the dtype, and the numbers that hold them
  static constexpr bool whole_depth = true;    ///< any depth at once
  int64_t at_once() const { return kGroup; }   ///< rows

  std::pair<const Number*, ptrdiff_t> rows(int64_t j, int64_t, int64_t k, int64_t) const {
    return {data + j * stride + k / block_elems * block_numbers, stride};
  }
  const void* ahead(int64_t j) const { return data + j * stride; }
};

/// Weights of the other dtypes, widened to a buffer.
struct Widened {
  void (*kernel)(float*, ptrdiff_t, const float*, ptrdiff_t, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, bool,
                 const void*);
  const StoredW& stored;
  static constexpr bool whole_depth = false;
  int64_t at_once() const { return kGroup; }

  std::pair<const float*, ptrdiff_t> rows(int64_t j, int64_t count, int64_t k, int64_t depth) const {
    float* const to = scratch(Scratch::rows, static_cast<std::size_t>(count * kPackedStride));
    for (int64_t r = 0; r < count; ++r) stored.widen(to + r * kPackedStride, j + r, k, depth);
    return {to, kPackedStride};
  }
  const void* ahead(int64_t) const { return nullptr; }  // rows are widened one after the other
};

/// Weights from a source, some rows at a time, which stay in the second-level cache until they are multiplied.
struct Made {
  void (*kernel)(float*, ptrdiff_t, const float*, ptrdiff_t, const float*, ptrdiff_t, ptrdiff_t, ptrdiff_t, bool,
                 const void*);
  const StoredMatrix& w;
  static constexpr bool whole_depth = true;
  int64_t at_once() const {
    return std::clamp<int64_t>((int64_t{1} << 17) / std::max<int64_t>(w.cols, 1) / kGroup * kGroup, kGroup, 64);
  }

  std::pair<const float*, ptrdiff_t> rows(int64_t j, int64_t count, int64_t, int64_t) const {
    float* const to = scratch(Scratch::rows, static_cast<std::size_t>(count * w.cols));
    w.source->read(j, MutMatrix(to, count, w.cols));
    return {to, w.cols};
  }
  const void* ahead(int64_t) const { return nullptr; }
};

/// y = x w' for at most kThinRows rows of x: each task streams some rows of w once. The kernels read a group of rows
/// side by side, which the processor's own prefetching follows badly; so the next group, which lies behind it, comes
/// into the cache in the order of memory.
template <class W>
void thin_product(MutMatrix y, ConstMatrix x, std::size_t row_bytes, bool accumulate, const KernelTable& t,
                  const W& w) {
  constexpr std::size_t kTaskBytes = 1 << 20;
  const auto fitting = static_cast<int64_t>(kTaskBytes / std::max<std::size_t>(row_bytes, 1));
  const int64_t most = round_up(divide_up(y.cols, 4 * tbb::this_task_arena::max_concurrency()), kGroup);
  const int64_t chunk = std::clamp<int64_t>(fitting / kGroup * kGroup, kGroup, std::max<int64_t>(most, kGroup));
  if (y.rows == 0 || y.cols == 0) return;
  const float* by_depth = x.data;
  if (x.rows > 1) {  // all tasks read it while this thread waits for them, isolated: none of them asks for this buffer
    float* const buffer = scratch(Scratch::x, static_cast<std::size_t>(x.rows * x.cols));
    t.transpose(buffer, x.rows, x.data, x.stride, x.rows, x.cols);
    by_depth = buffer;
  }
  const int64_t block = W::whole_depth ? std::max<int64_t>(x.cols, 1) : kBlockDepth, at_once = w.at_once();
  parallel(divide_up(y.cols, chunk), [&](int64_t task) {
    const int64_t end = std::min(y.cols, (task + 1) * chunk);
    for (int64_t j = task * chunk; j < end; j += at_once) {
      int64_t k = 0;
      do {
        const int64_t depth = std::min(block, x.cols - k), w_rows = std::min(at_once, end - j);
        const auto [weights, stride] = w.rows(j, w_rows, k, depth);
        const void* const ahead = j + w_rows < y.cols ? w.ahead(j + w_rows) : nullptr;
        for (int64_t g = 0; g < w_rows; g += kGroup)
          w.kernel(y.data + j + g, y.stride, by_depth + k * x.rows, x.rows, weights + g * stride, stride,
                   std::min(kGroup, w_rows - g), depth, accumulate || k > 0, ahead);
        k += depth;
      } while (k < x.cols);
    }
  });
}

}  // namespace

void read_rows(MutMatrix out, const StoredMatrix& w, int64_t first) {
  if (w.source != nullptr) return w.source->read(first, out);
  const DTypeInfo& type = info(w.dtype);
  const std::size_t row_bytes = bytes_of(w.dtype, static_cast<std::uint64_t>(w.cols));
  for (int64_t i = 0; i < out.rows; ++i)
    type.to_f32(w.data + static_cast<std::size_t>(first + i) * row_bytes, out.row(i).data(), out.row(i).size());
}

void matmul_nt(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate, const KernelTable& t) {
  check(x.rows == y.rows && w.rows == y.cols && x.cols == w.cols, "matmul_nt", y, x.rows, w.rows, x.cols, w.cols);
  if (y.rows <= kThinRows)
    return thin_product(y, x, static_cast<std::size_t>(w.cols) * sizeof(float), accumulate, t,
                        AsStored<float>{t.thin_f32, w.data, w.stride});
  blocked_product(y, x.cols, accumulate, t, RowsOfX{x}, RowsOfW{w, t});
}

void matmul_nn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate, const KernelTable& t) {
  check(x.rows == y.rows && w.cols == y.cols && x.cols == w.rows, "matmul_nn", y, x.rows, w.cols, x.cols, w.rows);
  blocked_product(y, x.cols, accumulate, t, RowsOfX{x}, ColsOfW{w, y.rows <= t.tile_rows});
}

void matmul_tn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate, const KernelTable& t) {
  check(x.cols == y.rows && w.cols == y.cols && x.rows == w.rows, "matmul_tn", y, x.cols, w.cols, x.rows, w.rows);
  blocked_product(y, x.rows, accumulate, t, ColsOfX{x, t}, ColsOfW{w, y.rows <= t.tile_rows});
}

void matmul_nt(MutMatrix y, ConstMatrix x, const StoredMatrix& w, bool accumulate, const KernelTable& t) {
  check(x.rows == y.rows && w.rows == y.cols && x.cols == w.cols, "matmul_nt", y, x.rows, w.rows, x.cols, w.cols);
  if (w.source != nullptr && y.rows <= kThinRows)
    return thin_product(y, x, static_cast<std::size_t>(w.cols) / 2, accumulate, t, Made{t.thin_f32, w});
  if (w.source != nullptr)
    return by_panels(w, [&](int64_t j, ConstMatrix panel) {
      matmul_nt(MutMatrix(y.data + j, y.rows, panel.rows, y.stride), x, panel, accumulate, t);
    });
  const DTypeInfo& type = info(w.dtype);
  check(w.cols % type.block_elems == 0 && type.to_f32 != nullptr, "matmul_nt: stored weights", y, x.rows, w.rows,
        x.cols, w.cols);
  const StoredW stored{w, type, bytes_of(w.dtype, static_cast<std::uint64_t>(w.cols)), t};
  if (w.dtype == DType::f32 && reinterpret_cast<std::uintptr_t>(w.data) % alignof(float) == 0)
    return matmul_nt(y, x, ConstMatrix(reinterpret_cast<const float*>(w.data), w.rows, w.cols), accumulate, t);
  if (y.rows > kThinRows) return blocked_product(y, x.cols, accumulate, t, RowsOfX{x}, stored);

  const auto thin = [&](const auto& weights) { thin_product(y, x, stored.row_bytes, accumulate, t, weights); };
  const auto* halves = reinterpret_cast<const std::uint16_t*>(w.data);
  if (w.dtype == DType::bf16 && stored.halves()) return thin(AsStored<std::uint16_t>{t.thin_bf16, halves, w.cols});
  if (w.dtype == DType::f16 && stored.halves()) return thin(AsStored<std::uint16_t>{t.thin_f16, halves, w.cols});
  if (w.dtype == DType::q8_0)
    return thin(AsStored<std::uint8_t>{t.thin_q8_0, reinterpret_cast<const std::uint8_t*>(w.data),
                                       static_cast<int64_t>(stored.row_bytes), type.block_elems, type.block_bytes});
  thin(Widened{t.thin_f32, stored});
}

}  // namespace fettle::kit
