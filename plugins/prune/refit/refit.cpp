// SPDX-License-Identifier: Apache-2.0
#include "refit.h"

#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/model/decoder.h"

#include <tbb/parallel_for.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace refit {

using namespace fettle::kit;

namespace {

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t j = 0; j < a.size(); ++j) sum += static_cast<double>(a[j]) * static_cast<double>(b[j]);
  return sum;
}

/// H = gram + damping, symmetric, scaled so that its mean diagonal is 1: any scale of the gram fits into f32.
Rows scaled_gram(const Square& gram, double damping, double& scale) {
  const std::int64_t n = gram.size();
  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += gram(i, i) / static_cast<double>(n);
  scale = mean > 0 ? mean : 1;
  Rows h(n, n);
  const MutMatrix out = h;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j)
      out(i, j) = out(j, i) = static_cast<float>(gram(i, j) / scale + (i == j ? damping : 0));
  return h;
}

/// (w - original) H (w - original)^T of every row.
std::vector<double> costs(ConstMatrix w, ConstMatrix original, const Rows& h) {
  Rows difference(w.rows, w.cols), product(w.rows, w.cols);
  const MutMatrix d = difference;
  tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < w.cols; ++j) d(i, j) = w(i, j) - original(i, j);
  });
  matmul_nt(product, difference, ConstMatrix(h));
  std::vector<double> sums(static_cast<std::size_t>(w.rows));
  tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) {
    sums[static_cast<std::size_t>(i)] = dot(ConstMatrix(difference).row(i), ConstMatrix(product).row(i));
  });
  return sums;
}

}  // namespace

Report fit(MutMatrix w, ConstMatrix original, const Square& gram, const Mask& mask, const Options& options) {
  double scale = 1;
  const Rows h = scaled_gram(gram, options.damping, scale);
  const ConstMatrix hessian = h;
  const std::vector<double> before = costs(w, original, h);
  const std::vector<float> start(w.data, w.data + w.rows * w.cols);

  Rows residual(w.rows, w.cols), direction(w.rows, w.cols), product(w.rows, w.cols);
  const MutMatrix r = residual, p = direction, q = product;
  // z = r / diag(H) where kept. A gradient in a pruned direction does not count.
  const auto preconditioned = [&](std::int64_t i, std::int64_t j) {
    return mask.kept(i, j) ? r(i, j) / hessian(j, j) : 0.0F;
  };
  std::vector<double> slope(static_cast<std::size_t>(w.rows));  // r . z
  tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < w.cols; ++j) p(i, j) = original(i, j) - w(i, j);
  });
  matmul_nt(r, p, hessian);
  tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) {
    double sum = 0;
    for (std::int64_t j = 0; j < w.cols; ++j) {
      p(i, j) = preconditioned(i, j);
      sum += static_cast<double>(r(i, j)) * static_cast<double>(p(i, j));
    }
    slope[static_cast<std::size_t>(i)] = sum;
  });
  for (int iteration = 0; iteration < options.iterations; ++iteration) {
    matmul_nt(q, p, hessian);
    tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) {
      double& rz = slope[static_cast<std::size_t>(i)];
      const double curvature = dot(ConstMatrix(p).row(i), ConstMatrix(q).row(i));
      if (!(rz > 0) || !(curvature > 0)) return;  // solved, or nothing kept
      const auto step = static_cast<float>(rz / curvature);
      double next = 0;
      for (std::int64_t j = 0; j < w.cols; ++j) {
        w(i, j) += step * p(i, j);
        r(i, j) -= step * q(i, j);
        next += static_cast<double>(r(i, j)) * static_cast<double>(preconditioned(i, j));
      }
      const auto turn = static_cast<float>(next / rz);
      for (std::int64_t j = 0; j < w.cols; ++j) p(i, j) = preconditioned(i, j) + turn * p(i, j);
      rz = next;
    });
  }

  const std::vector<double> after = costs(w, original, h);
  Report report;
  for (std::int64_t i = 0; i < w.rows; ++i) {
    const auto row = static_cast<std::size_t>(i);
    report.before += before[row] * scale;
    if (after[row] <= before[row]) {
      report.after += after[row] * scale;
    } else {
      std::memcpy(w.row(i).data(), start.data() + i * w.cols, static_cast<std::size_t>(w.cols) * sizeof(float));
      report.after += before[row] * scale;
    }
  }
  return report;
}

}  // namespace refit
