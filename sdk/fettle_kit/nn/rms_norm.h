// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <span>

namespace fettle::kit {

/// y[i, j] = x[i, j] / sqrt(mean_j(x[i, j]^2) + eps) * factor[j]; y may be x (Zhang and Sennrich 2019, equation 4). A
/// row's result depends on that row alone. Runs on the TBB arena of the caller.
void rms_norm(MutMatrix y, ConstMatrix x, std::span<const float> factor, float eps);

}  // namespace fettle::kit
