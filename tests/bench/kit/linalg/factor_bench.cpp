// SPDX-License-Identifier: Apache-2.0
// Cholesky and triangular inverse of one matrix in f64, ours and Eigen's in turns on one thread: seconds of that
// thread's CPU time, best of three, and GFLOP/s counted as n^3/3 each.
//
//   bench_kit_linalg_factor [N]

#include "fettle_kit/linalg/factor.h"

#include "eigen_factor.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

namespace {

using fettle::kit::Square;

double cpu_seconds(const std::function<void()>& work) {
  timespec a{}, b{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
  work();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
  return static_cast<double>(b.tv_sec - a.tv_sec) + static_cast<double>(b.tv_nsec - a.tv_nsec) * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t n = argc > 1 ? std::atoll(argv[1]) : 4096;
  const tbb::global_control one(tbb::global_control::max_allowed_parallelism, 1);
  Square h(n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      h(i, j) = 1.0 / static_cast<double>(1 + std::abs(i - j)) + (i == j ? 4.0 : 0.0);
  double cholesky = 1e30, inverse = 1e30, both = 1e30, eigen_cholesky = 1e30, eigen_inverse = 1e30;
  for (int turn = 0; turn < 3; ++turn) {
    Square ours = h, theirs = h;
    cholesky = std::min(cholesky, cpu_seconds([&] { (void)fettle::kit::cholesky(ours); }));
    eigen_cholesky = std::min(eigen_cholesky, cpu_seconds([&] { fettle::bench::eigen_cholesky(theirs.row(0), n); }));
    inverse = std::min(inverse, cpu_seconds([&] { fettle::kit::invert_lower(ours); }));
    eigen_inverse = std::min(eigen_inverse, cpu_seconds([&] { fettle::bench::eigen_invert_lower(theirs.row(0), n); }));
    both = std::min(both, cpu_seconds([&] { (void)fettle::kit::inverse_upper_factor(h); }));
  }
  const double flops = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / 3 * 1e-9;
  fmt::print("{} x {}            ours s  GFLOP/s    Eigen s  GFLOP/s   ratio\n", n, n);
  const auto line = [&](const char* name, double ours, double theirs) {
    fmt::print("{:<18}{:>8.3f}{:>9.1f}{:>11.3f}{:>9.1f}{:>8.2f}\n", name, ours, flops / ours, theirs, flops / theirs,
               theirs / ours);
  };
  line("Cholesky", cholesky, eigen_cholesky);
  line("triangular inverse", inverse, eigen_inverse);
  fmt::print("{:<18}{:>8.3f}{:>9.1f}\n", "both, reversed", both, 2 * flops / both);
  return 0;
}
