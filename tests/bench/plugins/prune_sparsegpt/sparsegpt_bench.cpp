// SPDX-License-Identifier: Apache-2.0
// SparseGPT on the layers of a model of 1B parameters, one thread, seconds of its CPU time, best of some turns: the
// factor, the sweep at 50 % and at 2:4, and beside them the same turn's bare products: those that the sweep defers, and
// a square one as what a product can do. Random weights; inputs with a common part.
//
//   bench_plugins_prune_sparsegpt [TURNS [LARGEST_WIDTH]]

#include "fettle_kit/compress/sweep.h"
#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/tensor/philox.h"

#include "plugins/prune/sparsegpt/sparsegpt.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <vector>

namespace {

using namespace fettle::kit;

double cpu_seconds(const std::function<void()>& work) {
  timespec a{}, b{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
  work();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
  return static_cast<double>(b.tv_sec - a.tv_sec) + static_cast<double>(b.tv_nsec - a.tv_nsec) * 1e-9;
}

std::vector<float> random_floats(std::int64_t size) {
  std::vector<float> values(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(philox_uniform(1, 0, i)) - 0.5F;
  return values;
}

Square gram_of_correlated(std::int64_t n) {
  Square gram(n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j)
      gram(i, j) = 1 / static_cast<double>(1 + i - j) + 0.1 + (i == j ? 1 + static_cast<double>(i % 7) : 0);
  return gram;
}

/// GFLOP/s of a square product.
double product_rate() {
  constexpr std::int64_t n = 2048;
  const std::vector<float> a = random_floats(n * n), b = a;
  std::vector<float> c(a.size());
  const double s = cpu_seconds(
      [&] { matmul_nn(MutMatrix(c.data(), n, n), ConstMatrix(a.data(), n, n), ConstMatrix(b.data(), n, n), false); });
  return 2.0 * n * n * n / s * 1e-9;
}

/// The updates behind each block of 128 columns, as bare products.
double deferred(std::int64_t rows, std::int64_t cols) {
  std::vector<float> w = random_floats(rows * cols);
  const std::vector<float> errors = random_floats(rows * 128), rest = random_floats(128 * cols);
  return cpu_seconds([&] {
    for (std::int64_t after = 128; after < cols; after += 128)
      matmul_nn(MutMatrix(w.data() + after, rows, cols - after, cols), ConstMatrix(errors.data(), rows, 128),
                ConstMatrix(rest.data(), 128, cols - after), true);
  });
}

double deferred_gflops(std::int64_t rows, std::int64_t cols) {
  double flops = 0;
  for (std::int64_t after = 128; after < cols; after += 128)
    flops += 2.0 * static_cast<double>(rows) * 128 * static_cast<double>(cols - after);
  return flops * 1e-9;
}

void measure(std::int64_t rows, std::int64_t cols, int turns) {
  const Square gram = gram_of_correlated(cols);
  SweepFactor factor;
  double factored = 1e30, half = 1e30, pattern = 1e30, bare = 1e30, rate = 0;
  const auto sweep = [&](const SparsityTarget& target) {
    std::vector<float> w = random_floats(rows * cols);
    sparsegpt::Rule rule(rows, cols, target);
    return cpu_seconds([&] { sweep_columns(MutMatrix(w.data(), rows, cols), factor, rule); });
  };
  for (int turn = 0; turn < turns; ++turn) {
    rate = std::max(rate, product_rate());
    factored = std::min(factored, cpu_seconds([&] { factor = *sweep_factor(gram, 0.01); }));
    bare = std::min(bare, deferred(rows, cols));
    half = std::min(half, sweep({0.5, Group::matrix, std::nullopt}));
    pattern = std::min(pattern, sweep({0, Group::matrix, NofM{2, 4}}));
  }
  const double gflop = deferred_gflops(rows, cols);
  fmt::print("{:>5} x {:<5}{:>10.2f}{:>9.2f}{:>9.2f}{:>11.2f}{:>16.2f}{:>16.2f}{:>13.2f}\n", rows, cols, factored, half,
             pattern, bare, gflop / bare / rate, gflop / half / rate, gflop / pattern / rate);
}

}  // namespace

int main(int argc, char** argv) {
  const int turns = argc > 1 ? std::atoi(argv[1]) : 3;
  const std::int64_t largest = argc > 2 ? std::atoll(argv[2]) : 8192;
  const tbb::global_control one(tbb::global_control::max_allowed_parallelism, 1);
  fmt::print(
      "rows x cols     factor s   50 % s   2:4 s   deferred s   of a product: deferred,   50 % sweep,   2:4 sweep\n");
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{2048, 2048}, {8192, 2048}, {2048, 8192}})
    if (cols <= largest) measure(rows, cols, turns);
  return 0;
}
