// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/grid.h"
#include "fettle_kit/linalg/factor.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace awq {

// AWQ (Lin et al. 2023, arXiv:2306.00978) in two steps. Channels that carry large inputs are multiplied by s > 1 before
// they are rounded and divided by s after, so that their errors weigh less; then the range of each group is clipped
// where that helps its outputs. Matrices are [out, in]; a Gram matrix is X^T X [in, in] over the calibration tokens.

/// s_j = max(mean |x_j|^ratio, 1e-4), or that over (weight_j^(1 - ratio) + 1e-4) where `weight` is given (AutoAWQ's
/// duo_scaling); then divided by sqrt(max s * min s). All ones at ratio 0. What is not a positive number becomes 1.
std::vector<float> scales_at(double ratio, std::span<const float> mean_abs, std::span<const float> weight);

/// How large the weights of each column are beside the largest of their group, [in]: the mean over the rows of all the
/// matrices.
std::vector<float> relative_weights(std::span<const fettle::kit::ConstMatrix> matrices,
                                    const fettle::kit::GridScheme& scheme);

/// What w is read as if it is stored with columns times `scales`: the grid's values of w diag(s), divided by s.
void round_scaled(fettle::kit::MutMatrix values, fettle::kit::ConstMatrix w, std::span<const float> scales,
                  const fettle::kit::GridScheme& scheme);

/// ||X (w - values)^T||^2 of each row, from the Gram matrix.
std::vector<double> row_losses(fettle::kit::ConstMatrix w, fettle::kit::ConstMatrix values,
                               fettle::kit::ConstMatrix gram);
/// The Gram matrix in f32 with both triangles, for row_losses.
std::vector<float> whole_gram(const fettle::kit::Square& lower);

struct Scales {
  double ratio = 0;
  std::vector<float> values;
  double loss = 0, unscaled_loss = 0;  ///< loss <= unscaled_loss
};
/// Tries the ratios 0, 1/n, ..., (n-1)/n and takes the one with the least loss; the smaller one of equals. `scales` may
/// adjust what scales_at() gave to what can be stored.
fettle::Result<Scales> search_scales(int ratios, const std::function<std::vector<float>(double ratio)>& scales,
                                     const std::function<fettle::Result<double>(std::span<const float>)>& loss);

/// Cuts the weights of each group (row and neighbours) at the share 1, 0.95, ..., 0.55 of their largest magnitude
/// that gives the group alone the least squared error of its outputs, and takes the cuts of a row back if the row as a
/// whole errs more with them. So no row's loss grows.
///   w       columns already multiplied by `scales`
///   gram    of the inputs before any scale
void clip(fettle::kit::MutMatrix w, std::span<const float> scales, fettle::kit::ConstMatrix gram,
          const fettle::kit::GridScheme& scheme);

}  // namespace awq
