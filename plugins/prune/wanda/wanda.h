// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <span>

namespace wanda {

/// score[i,j] = |w[i,j]| * ||x_j||_2 (Sun et al. 2023, arXiv:2306.11695, section 3), in place.
///   weights     [out, in]
///   input_norm  [in], over the calibration tokens
void score(fettle::kit::MutMatrix weights, std::span<const float> input_norm);

}  // namespace wanda
