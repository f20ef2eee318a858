// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <vector>

namespace fettle::kit {

/// Sums the squares of every column over all rows it is shown: what Wanda and the importance matrix of llama.cpp need.
///
///   x [n, width] f32, one row a token
///
/// Squares are added in f64, row by row in the order shown; columns are shared out among threads, so the sums do not
/// depend on their number.
class ColumnNorms {
 public:
  explicit ColumnNorms(std::int64_t width) : squares_(static_cast<std::size_t>(width)) {}
  void add(ConstMatrix x);
  std::int64_t rows() const { return rows_; }
  const std::vector<double>& sum_of_squares() const { return squares_; }
  /// ||x_j||_2 of every column j.
  std::vector<float> l2() const;

 private:
  std::vector<double> squares_;
  std::int64_t rows_ = 0;
};

}  // namespace fettle::kit
