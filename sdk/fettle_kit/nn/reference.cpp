// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

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

void attention(MutMatrix out, ConstMatrix queries, ConstMatrix keys, ConstMatrix values, const AttentionShape& shape,
               std::int64_t first) {
  const std::int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  std::vector<double> weights;
  for (std::int64_t h = 0; h < shape.heads; ++h) {
    for (std::int64_t t = 0; t < queries.rows; ++t) {
      const std::int64_t last = first + t;
      const std::int64_t begin = shape.window > 0 ? std::max<std::int64_t>(0, last - shape.window + 1) : 0;
      const float* q = queries.row(t).data() + h * dim;
      weights.clear();
      for (std::int64_t j = begin; j <= last; ++j) {
        const float* k = keys.row(j).data() + h / group * dim;
        double score = 0;
        for (std::int64_t d = 0; d < dim; ++d) score += double{q[d]} * k[d];
        score *= shape.scale;
        weights.push_back(shape.softcap > 0 ? shape.softcap * std::tanh(score / shape.softcap) : score);
      }
      const double top = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& w : weights) sum += w = std::exp(w - top);
      for (std::int64_t d = 0; d < dim; ++d) {
        double mixed = 0;
        for (std::int64_t j = begin; j <= last; ++j)
          mixed += weights[static_cast<std::size_t>(j - begin)] * values(j, h / group * dim + d);
        out(t, h * dim + d) = static_cast<float>(mixed / sum);
      }
    }
  }
}

}  // namespace fettle::kit::reference
