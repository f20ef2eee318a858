// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sweep.h"

#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/tensor/every_isa.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

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

constexpr std::int64_t most_run = 16;

/// y[i, k] += a[i] x[k] for so many rows and the columns [from, end): the same chains of fused multiply-adds as in a
/// matrix product.
FETTLE_EVERY_ISA void add_outer(float* __restrict y, const float* __restrict a, const float* __restrict x,
                                std::int64_t rows, std::int64_t stride, std::int64_t from, std::int64_t end) {
  for (std::int64_t i = 0; i < rows; ++i) {
    float* const row = y + i * stride;
    const float scale = a[i];
    for (std::int64_t k = from; k < end; ++k) row[k] = std::fma(scale, x[k], row[k]);
  }
}

/// The same for eight columns.
FETTLE_EVERY_ISA void add_to_eight(float* __restrict y, const float* __restrict a, const float* __restrict x,
                                   std::int64_t rows, std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t k = 0; k < 8; ++k) y[i * stride + k] = std::fma(a[i], x[k], y[i * stride + k]);
}

/// And for eight columns' errors a [8, tile] and rows x [8, size] of the factor, one after the other: a weight is
/// loaded and stored once for all of them.
FETTLE_EVERY_ISA void add_eight(float* __restrict y, const float* __restrict a, const float* __restrict x,
                                std::int64_t size, std::int64_t rows, std::int64_t stride, std::int64_t from) {
  const float* const x0 = x;
  const float* const x1 = x0 + size;
  const float* const x2 = x1 + size;
  const float* const x3 = x2 + size;
  const float* const x4 = x3 + size;
  const float* const x5 = x4 + size;
  const float* const x6 = x5 + size;
  const float* const x7 = x6 + size;
  for (std::int64_t i = 0; i < rows; ++i) {
    float* const row = y + i * stride;
    const float a0 = a[i], a1 = a[tile + i], a2 = a[2 * tile + i], a3 = a[3 * tile + i], a4 = a[4 * tile + i],
                a5 = a[5 * tile + i], a6 = a[6 * tile + i], a7 = a[7 * tile + i];
    for (std::int64_t k = from; k < size; ++k) {
      float sum = std::fma(a0, x0[k], row[k]);
      sum = std::fma(a1, x1[k], sum);
      sum = std::fma(a2, x2[k], sum);
      sum = std::fma(a3, x3[k], sum);
      sum = std::fma(a4, x4[k], sum);
      sum = std::fma(a5, x5[k], sum);
      sum = std::fma(a6, x6[k], sum);
      row[k] = std::fma(a7, x7[k], sum);
    }
  }
}

/// What a column's rounding leaves to be made up for, negated, for the products; sums of its squares.
FETTLE_EVERY_ISA void errors_of(const float* __restrict column, std::int64_t stride, const float* __restrict values,
                                float divisor, std::int64_t rows, float* __restrict negated, double* __restrict sums) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const float error = (column[i * stride] - values[i]) / divisor;
    negated[i] = -error;
    sums[i] += static_cast<double>(error) * static_cast<double>(error);
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

    const std::int64_t stride = (size + 15) / 16 * 16, run = std::clamp<std::int64_t>(rule.run(), 1, most_run);
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, (w.rows + tile - 1) / tile), [&](const auto& range) {
      std::vector<float> work(static_cast<std::size_t>(tile * stride)), done(work.size());
      for (std::int64_t part = range.begin(); part < range.end(); ++part) {
        const std::int64_t top = part * tile, rows = std::min(tile, w.rows - top);
        double sums[tile] = {};
        for (std::int64_t i = 0; i < rows; ++i)
          std::copy_n(w.data + (top + i) * w.stride + first, size, work.data() + i * stride);
        for (std::int64_t start = 0; start < size; start += run) {
          const std::int64_t end = std::min(start + run, size);
          float negated[most_run * tile] = {};
          for (std::int64_t j = start; j < end; ++j) {
            float values[tile];
            float* const error = negated + (j - start) * tile;
            rule.values(top, rows, first + j, work.data() + j, stride,
                        block_diagonal.last(static_cast<std::size_t>(size - j)), values);
            errors_of(work.data() + j, stride, values, factor[static_cast<std::size_t>(j * size + j)], rows, error,
                      sums);
            for (std::int64_t i = 0; i < rows; ++i) {
              done[static_cast<std::size_t>(i * stride + j)] = values[i];
              errors[static_cast<std::size_t>((top + i) * size + j)] = error[i];
            }
            // Columns that are done change too where a whole run is at hand; nobody looks at them any more.
            if (end - start == 8)
              add_to_eight(work.data() + start, error, factor.data() + j * size + start, rows, stride);
            else
              add_outer(work.data(), error, factor.data() + j * size, rows, stride, j + 1, end);
          }
          if (end - start == 8) {
            add_eight(work.data(), negated, factor.data() + start * size, size, rows, stride, end);
          } else {
            for (std::int64_t j = start; j < end; ++j)
              add_outer(work.data(), negated + (j - start) * tile, factor.data() + j * size, rows, stride, end, size);
          }
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
