// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sweep.h"

#include "fettle_kit/kernels/gemm.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

// One function compiled for several instruction sets and chosen when the library is loaded. Safe for the bits: lanes
// are independent, and a fused multiply-add is written as one. Sanitizers' run times cannot resolve it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FETTLE_EVERY_ISA
#else
#define FETTLE_EVERY_ISA __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif

namespace fettle::kit {
namespace {

/// The gram with dead inputs made harmless and the damping added.
Square damped(const Square& gram, double damping, std::vector<std::int64_t>& dead) {
  const std::int64_t n = gram.size();
  Square h = gram;
  double trace = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    if (h(j, j) == 0) {
      h(j, j) = 1;
      dead.push_back(j);
    }
    trace += h(j, j);
  }
  for (std::int64_t j = 0; j < n; ++j) h(j, j) += damping * trace / static_cast<double>(n);
  return h;
}

constexpr std::int64_t tile = 16;  // rows side by side: while one waits for its value, others go on

/// y[i, k] += a[i] x[k] for so many rows, from column `from` to `size`: the same chains of fused multiply-adds as in a
/// matrix product. Begins at a multiple of 16 where it can, so that what one call stores the next can load whole:
/// columns before `from` change too, and nobody looks at them any more.
FETTLE_EVERY_ISA void add_outer(float* __restrict y, const float* __restrict a, const float* __restrict x,
                                std::int64_t rows, std::int64_t stride, std::int64_t from, std::int64_t size) {
  const std::int64_t begin = from / 16 * 16;
  for (std::int64_t i = 0; i < rows; ++i) {
    float* const row = y + i * stride;
    const float scale = a[i];
    for (std::int64_t k = begin; k < size; ++k) row[k] = std::fma(scale, x[k], row[k]);
  }
}

}  // namespace

Result<SweepFactor> sweep_factor(const Square& gram, double damping) {
  SweepFactor factor;
  FETTLE_ASSIGN(factor.u, inverse_upper_factor(damped(gram, damping, factor.dead)));
  return factor;
}

Result<SweepReport> sweep_columns(MutMatrix w, const Square& gram, SweepRule& rule, const SweepOptions& options) {
  FETTLE_ASSIGN(const SweepFactor factor, sweep_factor(gram, options.damping));
  return sweep_columns(w, factor, rule, options.block);
}

SweepReport sweep_columns(MutMatrix w, const SweepFactor& along, SweepRule& rule, std::int64_t block) {
  const Square& u = along.u;
  SweepReport report;
  report.dead_columns = static_cast<std::int64_t>(along.dead.size());
  for (const std::int64_t j : along.dead)
    for (std::int64_t i = 0; i < w.rows; ++i) w(i, j) = 0;

  std::vector<double> diagonal(static_cast<std::size_t>(w.cols));
  for (std::int64_t j = 0; j < w.cols; ++j) diagonal[static_cast<std::size_t>(j)] = u(j, j);
  std::vector<double> row_errors(static_cast<std::size_t>(w.rows));
  std::vector<float> errors(static_cast<std::size_t>(w.rows * std::min(block, w.cols)));  // negated, for the product

  for (std::int64_t first = 0; first < w.cols; first += block) {
    const std::int64_t size = std::min(block, w.cols - first), after = first + size;
    const std::span<const double> block_diagonal(diagonal.data() + first, static_cast<std::size_t>(size));
    rule.begin_block(first, ConstMatrix(w.data + first, w.rows, size, w.stride), block_diagonal);

    std::vector<float> factor(static_cast<std::size_t>(size * size)),
        rest(static_cast<std::size_t>(size * (w.cols - after)));
    tbb::parallel_for(std::int64_t{0}, size, [&](std::int64_t j) {
      const double* const row = u.row(first + j);
      std::transform(row + first, row + after, factor.begin() + j * size,
                     [](double x) { return static_cast<float>(x); });
      std::transform(row + after, row + w.cols, rest.begin() + j * (w.cols - after),
                     [](double x) { return static_cast<float>(x); });
    });

    const std::int64_t stride = (size + 15) / 16 * 16;
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, (w.rows + tile - 1) / tile), [&](const auto& range) {
      std::vector<float> work(static_cast<std::size_t>(tile * stride)), done(work.size());
      for (std::int64_t part = range.begin(); part < range.end(); ++part) {
        const std::int64_t top = part * tile, rows = std::min(tile, w.rows - top);
        double sums[tile] = {};
        for (std::int64_t i = 0; i < rows; ++i)
          std::copy_n(w.data + (top + i) * w.stride + first, size, work.data() + i * stride);
        for (std::int64_t j = 0; j < size; ++j) {
          const float divisor = factor[static_cast<std::size_t>(j * size + j)];
          float values[tile], negated[tile] = {};
          rule.values(top, rows, first + j, work.data() + j, stride,
                      block_diagonal.last(static_cast<std::size_t>(size - j)), values);
          for (std::int64_t i = 0; i < rows; ++i) {
            const float error = (work[static_cast<std::size_t>(i * stride + j)] - values[i]) / divisor;
            done[static_cast<std::size_t>(i * stride + j)] = values[i];
            negated[i] = -error;
            errors[static_cast<std::size_t>((top + i) * size + j)] = -error;
            sums[i] += static_cast<double>(error) * static_cast<double>(error);
          }
          add_outer(work.data(), negated, factor.data() + j * size, rows, stride, j + 1, size);
        }
        for (std::int64_t i = 0; i < rows; ++i) {
          std::copy_n(done.data() + i * stride, size, w.data + (top + i) * w.stride + first);
          row_errors[static_cast<std::size_t>(top + i)] += sums[i];
        }
      }
    });
    if (after < w.cols)
      matmul_nn(MutMatrix(w.data + after, w.rows, w.cols - after, w.stride), ConstMatrix(errors.data(), w.rows, size),
                ConstMatrix(rest.data(), size, w.cols - after), true);
  }
  for (const double e : row_errors) report.error += e;
  return report;
}

}  // namespace fettle::kit
