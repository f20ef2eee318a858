// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/gradients.h"

#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/kernels/polynomials.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <vector>

namespace fettle::kit {
namespace {

constexpr std::int64_t kSumRows = 64;  // rows of one partial sum: part of the result

/// sums[j] = the partial sums of kSumRows rows each, added in order.
void add_partial_sums(std::span<float> sums, const std::vector<float>& partial, bool accumulate) {
  const std::size_t n = sums.size();
  if (!accumulate) std::fill(sums.begin(), sums.end(), 0.0f);
  for (std::size_t at = 0; at < partial.size(); at += n) kernels().add(sums.data(), sums.data(), &partial[at], n);
}

/// Calls add(row, partial sums to add it to) for all rows, 64 rows a task.
template <class Add>
void sum_rows(std::span<float> sums, std::int64_t rows, bool accumulate, const Add& add) {
  const std::int64_t parts = (rows + kSumRows - 1) / kSumRows;
  std::vector<float> partial(static_cast<std::size_t>(parts) * sums.size());
  tbb::parallel_for(std::int64_t{0}, parts, [&](std::int64_t part) {
    float* const to = partial.data() + static_cast<std::size_t>(part) * sums.size();
    const std::int64_t end = std::min(rows, (part + 1) * kSumRows);
    for (std::int64_t i = part * kSumRows; i < end; ++i) add(i, to);
  });
  add_partial_sums(sums, partial, accumulate);
}

}  // namespace

/// x * sigmoid(u(x)) has the slope s + x s (1 - s) u'(x), s = sigmoid(u(x)).
void gated_activation_gradient_row(float* dgate, float* dup, const float* dy, const float* gate, const float* up,
                                   std::size_t n, Activation activation) {
  constexpr std::size_t kPart = 512;
  float s[kPart], slope[kPart];
  for (std::size_t j = 0; j < n; j += kPart) {
    const std::size_t count = std::min(kPart, n - j);
    const float *g = gate + j, *u = up + j, *d = dy + j;
    if (activation == Activation::silu) {
      kernels().sigmoid(s, g, count);
      for (std::size_t i = 0; i < count; ++i) slope[i] = s[i] + g[i] * s[i] * (1.0f - s[i]);
    } else {
      for (std::size_t i = 0; i < count; ++i) s[i] = g[i] * (kGelu1 + kGelu3 * (g[i] * g[i]));
      kernels().sigmoid(s, s, count);
      for (std::size_t i = 0; i < count; ++i)
        slope[i] = s[i] + g[i] * s[i] * (1.0f - s[i]) * (kGelu1 + 3.0f * kGelu3 * (g[i] * g[i]));
    }
    for (std::size_t i = 0; i < count; ++i) {
      const float value = g[i] * s[i], to_gate = d[i] * u[i] * slope[i];
      dup[j + i] = d[i] * value;
      dgate[j + i] = to_gate;
    }
  }
}

void gated_activation_gradient(MutMatrix dgate, MutMatrix dup, ConstMatrix dy, ConstMatrix gate, ConstMatrix up,
                               Activation activation) {
  tbb::parallel_for(std::int64_t{0}, dy.rows, [&](std::int64_t i) {
    gated_activation_gradient_row(dgate.row(i).data(), dup.row(i).data(), dy.row(i).data(), gate.row(i).data(),
                                  up.row(i).data(), static_cast<std::size_t>(dy.cols), activation);
  });
}

void rms_norm_gradient(MutMatrix dx, bool accumulate, std::span<float> dfactor, bool accumulate_factor, ConstMatrix dy,
                       ConstMatrix x, std::span<const float> factor, std::span<const float> rstd) {
  const KernelTable& t = kernels();
  const std::size_t n = factor.size();
  const auto row = [&](std::int64_t i, float* sums) {
    const float *dy_row = dy.row(i).data(), *x_row = x.row(i).data();
    const float scale = rstd[static_cast<std::size_t>(i)];
    if (sums)
      for (std::size_t j = 0; j < n; ++j) sums[j] += dy_row[j] * (x_row[j] * scale);
    thread_local std::vector<float> g;
    g.resize(n);
    t.mul(g.data(), dy_row, factor.data(), n);
    const float mean = t.dot(g.data(), x_row, n) / static_cast<float>(n);
    t.scale(g.data(), scale, g.data(), n);
    t.axpy(g.data(), -(scale * scale * scale) * mean, x_row, n);
    if (accumulate) {
      t.add(dx.row(i).data(), dx.row(i).data(), g.data(), n);
    } else {
      std::copy(g.begin(), g.end(), dx.row(i).begin());
    }
  };
  if (dfactor.empty()) {
    tbb::parallel_for(std::int64_t{0}, dy.rows, [&](std::int64_t i) { row(i, nullptr); });
  } else {
    sum_rows(dfactor, dy.rows, accumulate_factor, row);
  }
}

void column_sums(std::span<float> sums, ConstMatrix x, bool accumulate) {
  sum_rows(sums, x.rows, accumulate,
           [&](std::int64_t i, float* to) { kernels().add(to, to, x.row(i).data(), sums.size()); });
}

}  // namespace fettle::kit
