// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/tensor/matrix.h"

namespace fettle::kit {

/// How far the outputs of a linear move when its weights change: ||X (W - W')^T||^2 / ||X W^T||^2 over all rows shown.
/// 0: not at all; 1: as far as if the matrix were gone.
///
///   x           [n, in] f32, one row a token
///   w, changed  [out, in], stored in any type
///
/// Products in f32, sums in f64 in a fixed order. Memory while adding: 8 n out bytes. Runs on the caller's TBB arena.
class ReconstructionError {
 public:
  void add(ConstMatrix x, const StoredMatrix& w, const StoredMatrix& changed);
  /// 0 if nothing was shown or all outputs were 0.
  double relative() const { return outputs_ > 0 ? moved_ / outputs_ : 0; }

 private:
  double moved_ = 0, outputs_ = 0;
};

}  // namespace fettle::kit
