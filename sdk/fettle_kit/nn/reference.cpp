// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/reference.h"

#include <cmath>

namespace fettle::kit::reference {

void rms_norm(MutMatrix y, ConstMatrix x, std::span<const float> factor, float eps) {
  for (std::int64_t i = 0; i < x.rows; ++i) {
    double squares = 0;
    for (const float value : x.row(i)) squares += double{value} * value;
    const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(x.cols) + double{eps}));
    for (std::int64_t j = 0; j < x.cols; ++j) y(i, j) = x(i, j) * scale * factor[static_cast<std::size_t>(j)];
  }
}

void rotate_heads(MutMatrix x, const RopeTable& table, std::int64_t positions) {
  const std::int64_t half = table.pairs;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const float* cos = table.cos.data() + r % positions * half;
    const float* sin = table.sin.data() + r % positions * half;
    for (float* head = x.row(r).data(); head != x.row(r).data() + x.cols; head += 2 * half) {
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = head[i], b = head[i + half];
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i] + a * sin[i];
      }
    }
  }
}

void gated_activation(MutMatrix gate, ConstMatrix up, Activation activation) {
  const auto activated = [&](double x) {
    if (activation == Activation::silu) return x / (1 + std::exp(-x));
    constexpr double root_2_over_pi = 0.79788456080286541;
    return 0.5 * x * (1 + std::tanh(root_2_over_pi * (x + 0.044715 * x * x * x)));
  };
  for (std::int64_t i = 0; i < gate.rows; ++i)
    for (std::int64_t j = 0; j < gate.cols; ++j) gate(i, j) = static_cast<float>(activated(gate(i, j)) * up(i, j));
}

void softcap(MutMatrix x, float cap) {
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (float& value : x.row(i)) value = cap * std::tanh(value / cap);
}

}  // namespace fettle::kit::reference
