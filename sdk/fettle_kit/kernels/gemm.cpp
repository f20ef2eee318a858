// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/gemm.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <tbb/parallel_for.h>

namespace fettle::kit {
namespace {

void check(bool ok, const char* what, ConstMatrix y, std::int64_t m, std::int64_t n, std::int64_t kx, std::int64_t kw) {
  if (ok) return;
  std::fprintf(stderr, "%s: y [%lld, %lld], x [%lld, %lld], w [%lld, %lld] do not fit together\n", what,
               static_cast<long long>(y.rows), static_cast<long long>(y.cols), static_cast<long long>(m),
               static_cast<long long>(kx), static_cast<long long>(kw), static_cast<long long>(n));
  std::abort();
}

/// y[i, j] over all k in order; x_at(i, k) and w_row(k) as the variant wants them.
template <class XAt, class WAt>
void multiply(MutMatrix y, std::int64_t depth, bool accumulate, const XAt& x_at, const WAt& w_at) {
  tbb::parallel_for(std::int64_t{0}, y.rows, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < y.cols; ++j) {
      float sum = accumulate ? y(i, j) : 0.0f;
      for (std::int64_t k = 0; k < depth; ++k) sum = std::fma(x_at(i, k), w_at(k, j), sum);
      y(i, j) = sum;
    }
  });
}

}  // namespace

void matmul_nt(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate) {
  check(x.rows == y.rows && w.rows == y.cols && x.cols == w.cols, "matmul_nt", y, x.rows, w.rows, x.cols, w.cols);
  multiply(y, x.cols, accumulate, [&](auto i, auto k) { return x(i, k); }, [&](auto k, auto j) { return w(j, k); });
}

void matmul_nn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate) {
  check(x.rows == y.rows && w.cols == y.cols && x.cols == w.rows, "matmul_nn", y, x.rows, w.cols, x.cols, w.rows);
  multiply(y, x.cols, accumulate, [&](auto i, auto k) { return x(i, k); }, [&](auto k, auto j) { return w(k, j); });
}

void matmul_tn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate) {
  check(x.cols == y.rows && w.cols == y.cols && x.rows == w.rows, "matmul_tn", y, x.cols, w.cols, x.rows, w.rows);
  multiply(y, x.rows, accumulate, [&](auto i, auto k) { return x(k, i); }, [&](auto k, auto j) { return w(k, j); });
}

void matmul_nt(MutMatrix y, ConstMatrix x, const StoredMatrix& w, bool accumulate) {
  check(x.rows == y.rows && w.rows == y.cols && x.cols == w.cols, "matmul_nt", y, x.rows, w.rows, x.cols, w.cols);
  const std::uint64_t row_bytes = bytes_of(w.dtype, static_cast<std::uint64_t>(w.cols));
  tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t j) {
    std::vector<float> row(static_cast<std::size_t>(w.cols));
    info(w.dtype).to_f32(w.data + static_cast<std::uint64_t>(j) * row_bytes, row.data(), row.size());
    for (std::int64_t i = 0; i < y.rows; ++i) {
      float sum = accumulate ? y(i, j) : 0.0f;
      for (std::int64_t k = 0; k < x.cols; ++k) sum = std::fma(x(i, k), row[static_cast<std::size_t>(k)], sum);
      y(i, j) = sum;
    }
  });
}

}  // namespace fettle::kit
