// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <span>
#include <vector>

namespace fettle::kit {

/// A square matrix of doubles, row-major.
class Square {
 public:
  explicit Square(std::int64_t n) : n_(n), data_(static_cast<std::size_t>(n * n)) {}
  std::int64_t size() const { return n_; }
  double* row(std::int64_t i) { return data_.data() + i * n_; }
  const double* row(std::int64_t i) const { return data_.data() + i * n_; }
  double& operator()(std::int64_t i, std::int64_t j) { return row(i)[j]; }
  double operator()(std::int64_t i, std::int64_t j) const { return row(i)[j]; }

 private:
  std::int64_t n_;
  std::vector<double> data_;
};

/// Factors a symmetric positive definite matrix in place: a = L L^T (Golub & Van Loan, 4.2). Reads and writes the lower
/// triangle only. invalid_argument, naming the pivot, if it is not positive definite. Blocked; every sum is taken in
/// index order, so the bits depend neither on threads nor on the instruction set. Runs on the caller's TBB arena.
Status cholesky(Square& a);

/// Inverts a lower triangular matrix in place; the upper triangle is neither read nor written.
void invert_lower(Square& l);

/// The upper triangular U with h^-1 = U^T U, which SparseGPT and GPTQ walk along: row j of U holds, scaled, how the
/// columns after j make up best for an error in column j, and U[j,j]^2 is the conditional inverse diagonal given
/// columns < j. One Cholesky and one triangular inverse of the matrix in reversed order, in place of the usual two and
/// an inverse.
///   h  symmetric positive definite, lower triangle read; consumed
/// Everything below the diagonal of the result is 0.
Result<Square> inverse_upper_factor(Square h);

}  // namespace fettle::kit
