// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/activation.h"

#include "fettle_kit/kernels/kernels.h"

#include <tbb/parallel_for.h>

namespace fettle::kit {
namespace {

/// Calls change(row, i) for every row i of x.
template <class Change>
void each_row(MutMatrix x, const Change& change) {
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t i) { change(x.row(i), i); });
}

}  // namespace

void gated_activation(MutMatrix gate, ConstMatrix up, Activation activation) {
  const auto multiply = activation == Activation::silu ? kernels().silu_mul : kernels().gelu_mul;
  each_row(gate, [&](std::span<float> g, std::int64_t i) { multiply(g.data(), g.data(), up.row(i).data(), g.size()); });
}

void add(MutMatrix x, ConstMatrix y) {
  each_row(x, [&](std::span<float> row, std::int64_t i) {
    kernels().add(row.data(), row.data(), y.row(i).data(), row.size());
  });
}

void add_bias(MutMatrix x, std::span<const float> bias) {
  each_row(x,
           [&](std::span<float> row, std::int64_t) { kernels().add(row.data(), row.data(), bias.data(), row.size()); });
}

void softcap(MutMatrix x, float cap) {
  each_row(x, [&](std::span<float> row, std::int64_t) {
    kernels().scale(row.data(), 1 / cap, row.data(), row.size());
    kernels().tanh(row.data(), row.data(), row.size());
    kernels().scale(row.data(), cap, row.data(), row.size());
  });
}

}  // namespace fettle::kit
