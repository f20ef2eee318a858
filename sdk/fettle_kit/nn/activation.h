// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <span>

namespace fettle::kit {

enum class Activation {
  silu,       ///< x / (1 + exp(-x))
  gelu_tanh,  ///< x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
};

/// gate = activation(gate) * up, element by element: the middle of a gated MLP (Shazeer 2020, equation 6).
void gated_activation(MutMatrix gate, ConstMatrix up, Activation activation);

/// x[i, j] += y[i, j]
void add(MutMatrix x, ConstMatrix y);
/// x[i, j] += bias[j]
void add_bias(MutMatrix x, std::span<const float> bias);
/// x = cap * tanh(x / cap)
void softcap(MutMatrix x, float cap);

}  // namespace fettle::kit
