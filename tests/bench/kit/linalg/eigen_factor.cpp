// SPDX-License-Identifier: Apache-2.0
// In a file of its own, because it is compiled for the widest vectors.
#include "eigen_factor.h"

#include <Eigen/Dense>

namespace fettle::bench {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void eigen_cholesky(double* a, long n) {
  Eigen::Map<Matrix> view(a, n, n);
  const Eigen::LLT<Eigen::Ref<Matrix>, Eigen::Lower> factor(view);
}

void eigen_invert_lower(double* l, long n) {
  Eigen::Map<Matrix> view(l, n, n);
  const Matrix inverse = view.triangularView<Eigen::Lower>().solve(Matrix::Identity(n, n));
  view = inverse;
}

}  // namespace fettle::bench
