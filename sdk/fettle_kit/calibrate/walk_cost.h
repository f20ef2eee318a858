// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"

namespace fettle::kit {

/// What a walk over a model will take, from the attributes of model and calibration alone; for estimate(). Sizes are
/// bytes of private memory: weights are mapped and do not count.
struct WalkCost {
  WalkCost(const Input& model, const Input& calibration);

  double layers = 0, tokens = 0;
  double block = 0;     ///< weights of one
  double matrix = 0;    ///< weights of the largest in it
  double stored = 2;    ///< bytes of a weight in the checkpoint
  double boundary = 0;  ///< activations between two blocks, of all tokens
  double portion = 0;   ///< activations inside a block
  double held_out = 0;  ///< the same of held-out tokens, with what a matrix puts out before and after
  /// The program, the table of a checkpoint's tensors, and factors packed for products.
  static constexpr double rest = 40e6;
};

}  // namespace fettle::kit
