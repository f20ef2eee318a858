// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/nn/activation.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstddef>
#include <span>

/// Backwards of the functions of this folder. Same letters; d before a name is the gradient of the loss with respect to
/// it. All run on the TBB arena of the caller and give the same bits for any number of threads.
namespace fettle::kit {

/// dgate = dy * up * activation'(gate), dup = dy * activation(gate). dgate may be gate, dup may be up.
void gated_activation_gradient(MutMatrix dgate, MutMatrix dup, ConstMatrix dy, ConstMatrix gate, ConstMatrix up,
                               Activation activation);
/// Of one row of n, on this thread.
void gated_activation_gradient_row(float* dgate, float* dup, const float* dy, const float* gate, const float* up,
                                   std::size_t n, Activation activation);

/// dx = rstd * (g - x * rstd^2 * mean_j(g * x)),  g = dy * factor   (+= if accumulate). dx may be dy.
/// dfactor[j] = sum_i dy[i, j] * x[i, j] * rstd[i]   (+= if accumulate_factor); empty: not wanted.
/// rstd [rows].
void rms_norm_gradient(MutMatrix dx, bool accumulate, std::span<float> dfactor, bool accumulate_factor, ConstMatrix dy,
                       ConstMatrix x, std::span<const float> factor, std::span<const float> rstd);

/// sums[j] = sum_i x[i, j]   (+= if accumulate).
void column_sums(std::span<float> sums, ConstMatrix x, bool accumulate);

}  // namespace fettle::kit
