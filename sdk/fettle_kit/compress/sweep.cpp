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

/// y += a x, the same chain of fused multiply-adds as in a matrix product.
FETTLE_EVERY_ISA void add_scaled(float* __restrict y, float a, const float* __restrict x, std::int64_t n) {
  for (std::int64_t k = 0; k < n; ++k) y[k] = std::fma(a, x[k], y[k]);
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

  for (std::int64_t first = 0; first < w.cols; first += block) {
    const std::int64_t size = std::min(block, w.cols - first), after = first + size;
    const std::span<const double> block_diagonal(diagonal.data() + first, static_cast<std::size_t>(size));
    rule.begin_block(first, ConstMatrix(w.data + first, w.rows, size, w.stride), block_diagonal);

    std::vector<float> factor(static_cast<std::size_t>(size * size)),
        rest(static_cast<std::size_t>(size * (w.cols - after)));
    for (std::int64_t j = 0; j < size; ++j) {
      for (std::int64_t k = 0; k < size; ++k)
        factor[static_cast<std::size_t>(j * size + k)] = static_cast<float>(u(first + j, first + k));
      for (std::int64_t k = after; k < w.cols; ++k)
        rest[static_cast<std::size_t>(j * (w.cols - after) + k - after)] = static_cast<float>(u(first + j, k));
    }

    std::vector<float> errors(static_cast<std::size_t>(w.rows * size));  // negated, for the product below
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 8), [&](const auto& range) {
      for (std::int64_t i = range.begin(); i < range.end(); ++i) {
        float* const row = w.data + i * w.stride + first;
        for (std::int64_t j = 0; j < size; ++j) {
          const auto left = static_cast<std::size_t>(size - j);
          const float value = rule.value(i, first + j, {row + j, left}, block_diagonal.last(left));
          const float error = (row[j] - value) / factor[static_cast<std::size_t>(j * size + j)];
          row[j] = value;
          add_scaled(row + j + 1, -error, factor.data() + j * size + j + 1, size - j - 1);
          errors[static_cast<std::size_t>(i * size + j)] = -error;
          row_errors[static_cast<std::size_t>(i)] += static_cast<double>(error) * static_cast<double>(error);
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
