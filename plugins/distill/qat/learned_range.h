// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/backend.h"
#include "fettle_kit/compress/grid.h"
#include "fettle_kit/train/training.h"

#include <string>

namespace distill_qat {

/// Step sizes of a symmetric grid that are learned beside the weights (LSQ, Esser et al. 2020, arXiv:1902.08153,
/// equation 3). What is learned is the largest magnitude of a group, bound = s (2^bits - 1) / 2: weights beyond it are
/// cut to it before they are quantized, so that the quantizer, which fits its grid to the largest weight it is given,
/// finds the learned step by itself. The checkpoint holds the cut weights, and with them the steps.
///
///   bound, gradient  [rows, groups] real
class LearnedRange {
 public:
  /// Starts where the sum of |error|^2.4 is least. `scheme`: symmetric, of groups or channels. Borrows the backend.
  LearnedRange(fettle::kit::Backend& backend, const fettle::kit::Array& master, const fettle::kit::GridScheme& scheme);

  fettle::kit::TrainedTensor tensor(const std::string& name) const;

  /// `cut` becomes the master within its bounds. A bound beyond the largest weight of its group is taken back to it,
  /// one below a step of the widest grid raised to it.
  void apply(fettle::kit::MutMatrix cut, const fettle::kit::Array& master) const;
  /// From the gradient of the quantized weights that of the bounds; 0 then for weights beyond their bound.
  void differentiate(fettle::kit::MutMatrix gradient, fettle::kit::ConstMatrix master) const;

 private:
  fettle::kit::Backend& backend_;
  fettle::kit::GridScheme scheme_;
  fettle::kit::Array bound_, gradient_;
};

}  // namespace distill_qat
