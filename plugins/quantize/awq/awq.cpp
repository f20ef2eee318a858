// SPDX-License-Identifier: Apache-2.0
#include "awq.h"

#include "fettle_kit/kernels/gemm.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace awq {

using namespace fettle::kit;

namespace {

constexpr int clip_steps = 10;  // shares 1 to 0.55 of the range, as in the reference

template <class Body>
void for_rows(std::int64_t rows, const Body& body) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, rows, 8), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i) body(i);
  });
}

/// sum_j a_j b_j in f64, in order.
double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t j = 0; j < a.size(); ++j) sum += static_cast<double>(a[j]) * static_cast<double>(b[j]);
  return sum;
}

/// d gram d^T of each row d.
std::vector<double> quadratic_forms(ConstMatrix d, ConstMatrix gram) {
  std::vector<float> product(static_cast<std::size_t>(d.rows * d.cols));
  const MutMatrix p(product.data(), d.rows, d.cols);
  matmul_nt(p, d, gram);
  std::vector<double> forms(static_cast<std::size_t>(d.rows));
  for_rows(d.rows, [&](std::int64_t i) { forms[static_cast<std::size_t>(i)] = dot(d.row(i), p.row(i)); });
  return forms;
}

float largest(std::span<const float> group) {
  float most = 0;
  for (const float w : group) most = std::max(most, std::fabs(w));
  return most;
}

/// The best cut of every row's group at [first, first + span), and the group as it is then.
void clip_group(MutMatrix clipped, ConstMatrix w, std::int64_t first, std::span<const float> scales, ConstMatrix gram,
                const GridScheme& scheme) {
  const std::int64_t span = clipped.cols;
  std::vector<float> error(static_cast<std::size_t>(w.rows * span));
  const MutMatrix errors(error.data(), w.rows, span);
  std::vector<double> least(static_cast<std::size_t>(w.rows), std::numeric_limits<double>::infinity());
  const auto group = [&](std::int64_t i) {
    return w.row(i).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(span));
  };
  const auto cut = [&](std::int64_t i, int step, std::span<float> out) {
    const float most = largest(group(i)) * (1 - static_cast<float>(step) / 20);
    for (std::size_t j = 0; j < out.size(); ++j) out[j] = std::clamp(group(i)[j], -most, most);
  };
  for (int step = 0; step < clip_steps; ++step) {
    for_rows(w.rows, [&](std::int64_t i) {
      const std::span<float> out = errors.row(i);
      cut(i, step, out);
      const Steps steps = fit_steps(out, scheme);
      for (std::int64_t j = 0; j < span; ++j) {
        float& v = out[static_cast<std::size_t>(j)];
        v = (steps.scale * level_of(v, steps, scheme.bits) - w(i, first + j)) /
            scales[static_cast<std::size_t>(first + j)];
      }
    });
    const std::vector<double> losses = quadratic_forms(errors, gram);
    for_rows(w.rows, [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      if (!(losses[at] < least[at])) return;
      least[at] = losses[at];
      cut(i, step, clipped.row(i));
    });
  }
}

}  // namespace

std::vector<float> scales_at(double ratio, std::span<const float> mean_abs, std::span<const float> weight) {
  std::vector<float> s(mean_abs.size(), 1.0F);
  if (ratio == 0) return s;
  double least = std::numeric_limits<double>::infinity(), most = 0;
  std::vector<double> raw(s.size());
  for (std::size_t j = 0; j < s.size(); ++j) {
    raw[j] = std::pow(static_cast<double>(mean_abs[j]), ratio);
    if (!weight.empty()) raw[j] /= std::pow(static_cast<double>(weight[j]), 1 - ratio) + 1e-4;
    raw[j] = std::max(raw[j], 1e-4);
    least = std::min(least, raw[j]), most = std::max(most, raw[j]);
  }
  const double middle = std::sqrt(least * most);
  for (std::size_t j = 0; j < s.size(); ++j)
    if (const auto v = static_cast<float>(raw[j] / middle); std::isfinite(v) && v > 0) s[j] = v;
  return s;
}

std::vector<float> relative_weights(std::span<const ConstMatrix> matrices, const GridScheme& scheme) {
  const std::int64_t cols = matrices.front().cols, span = scheme.span(cols);
  std::vector<double> sums(static_cast<std::size_t>(cols));
  std::int64_t rows = 0;
  for (const ConstMatrix& w : matrices) {
    rows += w.rows;
    // Groups are columns of their own: shared out among threads, each adds its rows in order.
    tbb::parallel_for(std::int64_t{0}, cols / span, [&](std::int64_t g) {
      for (std::int64_t i = 0; i < w.rows; ++i) {
        const auto group = w.row(i).subspan(static_cast<std::size_t>(g * span), static_cast<std::size_t>(span));
        const double most = static_cast<double>(largest(group)) + 1e-6;
        for (std::int64_t j = 0; j < span; ++j)
          sums[static_cast<std::size_t>(g * span + j)] +=
              std::fabs(static_cast<double>(group[static_cast<std::size_t>(j)])) / most;
      }
    });
  }
  std::vector<float> means;
  for (const double sum : sums) means.push_back(static_cast<float>(sum / static_cast<double>(rows)));
  return means;
}

void round_scaled(MutMatrix values, ConstMatrix w, std::span<const float> scales, const GridScheme& scheme) {
  for_rows(w.rows, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < w.cols; ++j) values(i, j) = w(i, j) * scales[static_cast<std::size_t>(j)];
  });
  const CodedMatrix coded = round_to_grid(values, scheme);
  for_rows(w.rows, [&](std::int64_t i) {
    coded.read(i, values.rows_from(i, 1));
    for (std::int64_t j = 0; j < w.cols; ++j) values(i, j) /= scales[static_cast<std::size_t>(j)];
  });
}

std::vector<double> row_losses(ConstMatrix w, ConstMatrix values, ConstMatrix gram) {
  std::vector<float> difference(static_cast<std::size_t>(w.rows * w.cols));
  const MutMatrix d(difference.data(), w.rows, w.cols);
  for_rows(w.rows, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < w.cols; ++j) d(i, j) = values(i, j) - w(i, j);
  });
  return quadratic_forms(d, gram);
}

std::vector<float> whole_gram(const Square& lower) {
  const std::int64_t n = lower.size();
  std::vector<float> gram(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j)
      gram[static_cast<std::size_t>(i * n + j)] = gram[static_cast<std::size_t>(j * n + i)] =
          static_cast<float>(lower(i, j));
  return gram;
}

fettle::Result<Scales> search_scales(int ratios, const std::function<std::vector<float>(double)>& scales,
                                     const std::function<fettle::Result<double>(std::span<const float>)>& loss) {
  Scales best;
  for (int k = 0; k < ratios; ++k) {
    const double ratio = static_cast<double>(k) / ratios;
    std::vector<float> tried = scales(ratio);
    FETTLE_ASSIGN(const double lost, loss(tried));
    if (k == 0) best.unscaled_loss = lost;
    if (k > 0 && !(lost < best.loss)) continue;
    best.ratio = ratio;
    best.values = std::move(tried);
    best.loss = lost;
  }
  return best;
}

void clip(MutMatrix w, std::span<const float> scales, ConstMatrix gram, const GridScheme& scheme) {
  const std::int64_t span = scheme.span(w.cols);
  std::vector<float> cut(static_cast<std::size_t>(w.rows * w.cols));
  const MutMatrix clipped(cut.data(), w.rows, w.cols);
  for (std::int64_t first = 0; first < w.cols; first += span)
    clip_group({clipped.data + first, w.rows, span, w.cols}, w, first, scales,
               {gram.data + first * gram.stride + first, span, span, gram.stride}, scheme);

  const auto losses = [&](ConstMatrix stored) {
    std::vector<float> difference(static_cast<std::size_t>(w.rows * w.cols));
    const MutMatrix d(difference.data(), w.rows, w.cols);
    const CodedMatrix coded = round_to_grid(stored, scheme);
    for_rows(w.rows, [&](std::int64_t i) {
      coded.read(i, d.rows_from(i, 1));
      for (std::int64_t j = 0; j < w.cols; ++j) d(i, j) = (d(i, j) - w(i, j)) / scales[static_cast<std::size_t>(j)];
    });
    return quadratic_forms(d, gram);
  };
  const std::vector<double> before = losses(w), after = losses(clipped);
  for_rows(w.rows, [&](std::int64_t i) {
    if (after[static_cast<std::size_t>(i)] < before[static_cast<std::size_t>(i)])
      std::copy(clipped.row(i).begin(), clipped.row(i).end(), w.row(i).begin());
  });
}

}  // namespace awq
