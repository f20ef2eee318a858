// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/mask.h"
#include "fettle_kit/linalg/factor.h"
#include "fettle_kit/tensor/matrix.h"

namespace refit {

struct Options {
  int iterations = 20;    ///< of conjugate gradients, for all rows at once
  double damping = 0.01;  ///< of the mean diagonal, added to it
};

struct Report {
  double before = 0, after = 0;  ///< tr((W - W') (H + damping) (W - W')^T), of the start and of the result
};

/// Finds, for every row, kept weights whose outputs are nearest to the original's: minimises ||X (w - w')||^2 over w'
/// that are zero where the mask says so. Conjugate gradients on the normal equations of all rows at once, the gradient
/// masked, preconditioned by the diagonal (as the last step of ALPS, Meng et al. 2024, arXiv:2406.07831, section 3.3).
///   w         [rows, cols]; in: where to start, zeros where pruned; out: the result
///   original  [rows, cols]
///   gram      X^T X of the inputs, [cols, cols], any positive scale; lower triangle read
/// A row that came out worse than it started, for rounding, is left as it was: never worse than the start. Products in
/// f32, sums in f64, in a fixed order: the same bits for any number of threads. Memory: 20 bytes a weight and
/// 4 cols^2.
Report fit(fettle::kit::MutMatrix w, fettle::kit::ConstMatrix original, const fettle::kit::Square& gram,
           const fettle::kit::Mask& mask, const Options& options);

}  // namespace refit
