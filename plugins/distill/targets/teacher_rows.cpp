// SPDX-License-Identifier: Apache-2.0
#include "teacher_rows.h"

#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/kernels/logarithm.h"
#include "fettle_kit/tensor/half.h"
#include "fettle_kit/tensor/philox.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace distill_targets {

using fettle::kit::kernels;

namespace {

/// The logits become exp((x - largest) / temperature).
struct Exponentials {
  double top = 0, sum = 0;  ///< sum in f64, in the order of the ids
  bool finite = false;

  Exponentials(std::span<float> x, double temperature) {
    const std::size_t n = x.size();
    if (temperature != 1) kernels().scale(x.data(), static_cast<float>(1 / temperature), x.data(), n);
    const float largest = kernels().max(x.data(), n);
    const float total = kernels().exp_sum(x.data(), x.data(), largest, n);
    finite = std::isfinite(total) && total > 0;
    top = largest;
    sum = std::accumulate(x.begin(), x.end(), 0.0);
  }
};

}  // namespace

bool most_likely(std::span<float> logits, double temperature, bool keep_tail, std::span<std::int32_t> ids,
                 std::span<std::uint16_t> log_p, float& tail) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (!std::ranges::all_of(logits, [](float x) { return std::isfinite(x); })) return false;
  const auto k = static_cast<std::ptrdiff_t>(ids.size());
  if (ids.size() < order.size()) std::nth_element(order.begin(), order.begin() + k, order.end(), likelier);
  std::sort(order.begin(), order.begin() + k);
  std::copy(order.begin(), order.begin() + k, ids.begin());
  std::vector<double> scaled(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i)
    scaled[i] = double{logits[static_cast<std::size_t>(ids[i])]} * static_cast<float>(1 / temperature);
  const Exponentials e(logits, temperature);
  double sum = e.sum;
  if (!keep_tail) {
    sum = 0;
    for (const std::int32_t id : ids) sum += logits[static_cast<std::size_t>(id)];
  }
  const double log_sum = e.top + fettle::kit::natural_log(sum);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    // Below the smallest f16 logarithm there is nothing that f32 probabilities could hold either.
    log_p[i] = fettle::kit::float_to_half(static_cast<float>(std::clamp(scaled[i] - log_sum, -60000.0, 0.0)));
    logits[static_cast<std::size_t>(ids[i])] = 0;
  }
  tail = keep_tail ? static_cast<float>(std::accumulate(logits.begin(), logits.end(), 0.0) / e.sum) : 0.0F;
  return e.finite;
}

std::size_t draw(std::span<float> logits, double temperature, std::size_t draws, std::uint64_t seed, std::uint64_t row,
                 std::span<std::int32_t> ids, std::span<std::uint8_t> counts) {
  const Exponentials e(logits, temperature);
  if (!e.finite) return 0;
  std::vector<double> points(draws);
  for (std::size_t i = 0; i < draws; ++i)
    points[i] = fettle::kit::philox_uniform(seed, row, static_cast<std::uint64_t>(i)) * e.sum;
  std::sort(points.begin(), points.end());
  std::size_t found = 0, last = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] > 0) last = i;  // takes a point that rounding puts at the very end
  double below = 0;
  for (std::size_t id = 0, next = 0; next < draws; ++id) {
    below += logits[id];
    const std::size_t from = next;
    while (next < draws && (points[next] < below || id == last)) ++next;
    if (next == from) continue;
    ids[found] = static_cast<std::int32_t>(id);
    counts[found++] = static_cast<std::uint8_t>(next - from);
  }
  return found;
}

}  // namespace distill_targets
