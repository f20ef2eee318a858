// SPDX-License-Identifier: Apache-2.0
// Blocking and threads of the bf16 products; the arithmetic is in the kernel tables.
//
// K is walked in blocks, the columns of y in chunks. For each of both, all threads pack w, then x, into buffers that
// they share, and then multiply: a task owns a rectangle of y, whose packed x and w fit into the second-level cache
// together. Blocks of K are whole slices, and between them the sums rest in y, so none of the sizes changes the result.
#include "fettle_kit/kernels/gemm_bf16.h"

#include "fettle_kit/kernels/panels.h"
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

constexpr int64_t kTaskCols = 128;
constexpr int64_t kChunkCols = 4096;  // of shared packed w: 16 MiB
constexpr int64_t kChunkRows = 2048;

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

/// Runs body(first, count) for parts of [0, size) on the caller's arena. Isolated: a thread that waits here takes no
/// other work of the caller, which might need what this one holds.
template <class Body>
void parallel_parts(int64_t size, int64_t part_size, const Body& body) {
  const auto run = [&](int64_t index) { body(index * part_size, std::min(part_size, size - index * part_size)); };
  const int64_t count = divide_up(size, part_size);
  if (count == 1) return run(0);
  tbb::this_task_arena::isolate([&] { tbb::parallel_for(int64_t{0}, count, run, tbb::simple_partitioner()); });
}

/// A chunk of an operand in panels, packed by all threads.
class Packed {
 public:
  Packed(Scratch purpose, int64_t most_rows, int64_t most_depth, int64_t panel_rows, int64_t element_bytes)
      : panel_rows_(panel_rows),
        element_bytes_(element_bytes),
        data_(scratch(purpose, static_cast<std::size_t>(round_up(most_rows, panel_rows) *
                                                        round_up(most_depth, kBf16Slice) * element_bytes) /
                                   sizeof(float))) {}

  void pack(const Bf16Operand& m, bool by_depth, int64_t i, int64_t rows, int64_t k, int64_t depth,
            void (*pack_panels)(void*, Bf16Source, ptrdiff_t, ptrdiff_t)) {
    row_bytes_ = round_up(depth, kBf16Slice) * element_bytes_;
    constexpr int64_t kPartBytes = 256 << 10;
    const int64_t part_rows = std::max(panel_rows_, kPartBytes / row_bytes_ / panel_rows_ * panel_rows_);
    parallel_parts(rows, part_rows, [&](int64_t first, int64_t count) {
      pack_panels(at(first), part(m, by_depth, i + first, k), count, depth);
    });
  }
  /// The panel that starts with a row of the chunk.
  char* at(int64_t row) const { return reinterpret_cast<char*>(data_) + row * row_bytes_; }

 private:
  int64_t panel_rows_, element_bytes_, row_bytes_ = 0;
  float* data_;
};

void product(MutMatrix y, int64_t depth, const Bf16Operand& x, bool x_by_depth, const Bf16Operand& w, bool w_by_depth,
             bool accumulate, const Bf16Kernels& t) {
  if (y.rows == 0 || y.cols == 0) return;
  if (depth == 0) {
    for (int64_t i = 0; i < y.rows && !accumulate; ++i) std::ranges::fill(y.row(i), 0.0f);
    return;
  }
  const auto even_parts = [](int64_t size, int64_t most, int64_t unit) {
    return round_up(divide_up(size, divide_up(size, most)), unit);
  };
  const int64_t block = even_parts(depth, t.block_depth, kBf16Slice);
  const int64_t chunk_rows = even_parts(y.rows, kChunkRows, t.tile_rows);
  const int64_t chunk_cols = even_parts(y.cols, kChunkCols, t.tile_cols);
  // All threads read these while this one waits for them, isolated: none of them asks for the same buffers.
  Packed packed_x(Scratch::x, std::min(y.rows, chunk_rows), block, t.tile_rows, t.element_bytes);
  Packed packed_w(Scratch::w, std::min(y.cols, chunk_cols), block, t.tile_cols, t.element_bytes);

  const int64_t col_tasks = divide_up(chunk_cols, kTaskCols), wanted = 4 * tbb::this_task_arena::max_concurrency();
  int64_t task_rows =
      even_parts(chunk_rows, std::max<int64_t>(t.task_x_bytes / (block * t.element_bytes), 1), t.tile_rows);
  while (wanted > 4 && divide_up(chunk_rows, task_rows) * col_tasks < wanted && task_rows > 2 * t.tile_rows)
    task_rows = round_up(task_rows / 2, t.tile_rows);

  for (int64_t k = 0; k < depth; k += block) {
    const int64_t k_count = std::min(block, depth - k);
    for (int64_t j0 = 0; j0 < y.cols; j0 += chunk_cols) {
      const int64_t cols = std::min(chunk_cols, y.cols - j0);
      packed_w.pack(w, w_by_depth, j0, cols, k, k_count, t.pack_w);
      for (int64_t i0 = 0; i0 < y.rows; i0 += chunk_rows) {
        const int64_t rows = std::min(chunk_rows, y.rows - i0), across = divide_up(cols, kTaskCols);
        if (j0 == 0 || y.rows > chunk_rows) packed_x.pack(x, x_by_depth, i0, rows, k, k_count, t.pack_x);
        parallel_parts(divide_up(rows, task_rows) * across, 1, [&](int64_t task, int64_t) {
          const int64_t i = task / across * task_rows, j = task % across * kTaskCols;
          t.multiply(y.data + (i0 + i) * y.stride + j0 + j, y.stride, packed_x.at(i), packed_w.at(j),
                     std::min(task_rows, rows - i), std::min(kTaskCols, cols - j), k_count, accumulate || k > 0);
        });
      }
    }
  }
}

}  // namespace

void matmul_bf16_nt(MutMatrix y, Bf16Operand x, Bf16Operand w, bool accumulate, const KernelTable& t) {
  check(x.rows == y.rows && w.rows == y.cols && x.cols == w.cols, "matmul_bf16_nt", y, x.rows, w.rows, x.cols, w.cols);
  product(y, x.cols, x, false, w, false, accumulate, *t.bf16);
}

void matmul_bf16_nt(MutMatrix y, ConstMatrix x, const StoredMatrix& w, bool accumulate, const KernelTable& t) {
  check(x.rows == y.rows && w.rows == y.cols && x.cols == w.cols, "matmul_bf16_nt", y, x.rows, w.rows, x.cols, w.cols);
  if (w.source == nullptr && w.dtype == DType::bf16 &&
      reinterpret_cast<std::uintptr_t>(w.data) % alignof(std::uint16_t) == 0) {
    const Bf16Matrix stored{reinterpret_cast<const std::uint16_t*>(w.data), w.rows, w.cols, w.cols};
    return product(y, x.cols, x, false, stored, false, accumulate, *t.bf16);
  }
  by_panels(w, [&](int64_t j, ConstMatrix panel) {
    product(MutMatrix(y.data + j, y.rows, panel.rows, y.stride), x.cols, x, false, panel, false, accumulate, *t.bf16);
  });
}

std::int64_t bf16_packed_bytes(int64_t rows, const KernelTable& t) {
  return (kChunkCols + std::min(rows, kChunkRows)) * t.bf16->block_depth * t.bf16->element_bytes;
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
