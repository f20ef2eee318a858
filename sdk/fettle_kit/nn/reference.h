// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/nn/activation.h"
#include "fettle_kit/nn/rope.h"

#include <span>

/// The functions of this folder as their papers write them: one thread, the standard library's elementary functions,
/// sums from left to right. Always built, and what the fast ones are tested against.
namespace fettle::kit::reference {

void rms_norm(MutMatrix y, ConstMatrix x, std::span<const float> factor, float eps);
void rotate_heads(MutMatrix x, const RopeTable& table, std::int64_t positions);
void gated_activation(MutMatrix gate, ConstMatrix up, Activation activation);
void softcap(MutMatrix x, float cap);

}  // namespace fettle::kit::reference
