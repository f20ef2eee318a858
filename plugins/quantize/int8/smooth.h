// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <span>
#include <vector>

namespace smooth {

/// SmoothQuant (Xiao et al. 2022, arXiv:2211.10438, equation 4): s_j = max |x_j|^alpha / max |W_:j|^(1 - alpha), within
/// 1e-4 .. 1e4. Inputs are divided by s, columns of weights multiplied, so that at alpha 0.5 both reach equally far. 1
/// where inputs or weights are all zero, or no numbers.
std::vector<float> scales(std::span<const float> input_max, std::span<const float> weight_max, double alpha);

/// max |W_:j| over the rows of all matrices.
std::vector<float> column_max(std::span<const fettle::kit::ConstMatrix> matrices);

}  // namespace smooth
