// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/activation.h"

#include <tbb/parallel_for.h>

#include <cmath>

namespace fettle::kit {
namespace {

float silu(float x) { return x / (1.0f + std::exp(-x)); }
float gelu_tanh(float x) {
  constexpr float root_2_over_pi = 0.797884560802865f;
  return 0.5f * x * (1.0f + std::tanh(root_2_over_pi * (x + 0.044715f * x * x * x)));
}

/// Calls change(row, i) for every row i of x.
template <class Change>
void each_row(MutMatrix x, const Change& change) {
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t i) { change(x.row(i), i); });
}

}  // namespace

void gated_activation(MutMatrix gate, ConstMatrix up, Activation activation) {
  each_row(gate, [&](std::span<float> g, std::int64_t i) {
    const float* u = up.row(i).data();
    if (activation == Activation::silu)
      for (std::size_t j = 0; j < g.size(); ++j) g[j] = silu(g[j]) * u[j];
    else
      for (std::size_t j = 0; j < g.size(); ++j) g[j] = gelu_tanh(g[j]) * u[j];
  });
}

void add(MutMatrix x, ConstMatrix y) {
  each_row(x, [&](std::span<float> row, std::int64_t i) {
    const float* other = y.row(i).data();
    for (std::size_t j = 0; j < row.size(); ++j) row[j] += other[j];
  });
}

void add_bias(MutMatrix x, std::span<const float> bias) {
  each_row(x, [&](std::span<float> row, std::int64_t) {
    for (std::size_t j = 0; j < row.size(); ++j) row[j] += bias[j];
  });
}

void softcap(MutMatrix x, float cap) {
  each_row(x, [&](std::span<float> row, std::int64_t) {
    for (float& value : row) value = cap * std::tanh(value / cap);
  });
}

}  // namespace fettle::kit
