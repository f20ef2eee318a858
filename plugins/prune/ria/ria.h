// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <span>

namespace ria {

/// Relative importance and activations (Zhang et al. 2024, "Plug-and-Play", ICLR 2024, section 3), in place:
///   score[i,j] = (|w[i,j]| / sum_k |w[k,j]| + |w[i,j]| / sum_k |w[i,k]|) * ||x_j||_2 ^ exponent
///   weights     [out, in]; a row or column of zeros scores 0
///   input_norm  [in], over the calibration tokens
/// Sums in f64 in index order: the same bits for any number of threads.
void score(fettle::kit::MutMatrix weights, std::span<const float> input_norm, double exponent);

}  // namespace ria
