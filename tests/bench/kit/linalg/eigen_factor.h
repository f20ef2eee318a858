// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fettle::bench {

/// Eigen's Cholesky factor of a [n, n], row-major, lower triangle, in place.
void eigen_cholesky(double* a, long n);
/// Eigen's inverse of a lower triangular matrix, in place.
void eigen_invert_lower(double* l, long n);

}  // namespace fettle::bench
