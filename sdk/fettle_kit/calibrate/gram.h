// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/linalg/factor.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>

namespace fettle::kit {

/// Accumulates X^T X over the inputs of one linear: what SparseGPT and GPTQ call the Hessian, up to a factor that
/// cancels.
///
///   x     [n, width] f32, one row a token
///   gram  [width, width] f64, lower triangle
///
/// Each portion is multiplied in f32 and added in f64. Portions come in the same order whatever the threads, so the
/// bits do not depend on them. Memory: 8 width^2 bytes, and 2048 width while adding.
class Gram {
 public:
  explicit Gram(std::int64_t width) : sum_(width) {}
  void add(ConstMatrix x);
  std::int64_t rows() const { return rows_; }
  const Square& sum() const { return sum_; }

 private:
  Square sum_;
  std::int64_t rows_ = 0;
};

}  // namespace fettle::kit
