// SPDX-License-Identifier: Apache-2.0
// In a file of its own, because it is compiled for the widest vectors.
#include "eigen_peer.h"

#include <Eigen/Core>

namespace fettle::bench {

void eigen_matmul_nt(float* y, const float* x, const float* w, long m, long n, long k) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::Map<Matrix>(y, m, n).noalias() =
      Eigen::Map<const Matrix>(x, m, k) * Eigen::Map<const Matrix>(w, n, k).transpose();
}

}  // namespace fettle::bench
