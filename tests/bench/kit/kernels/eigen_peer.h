// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fettle::bench {

/// y [m, n] = x [m, k] w' with w [n, k], all dense row-major, by Eigen on this thread.
void eigen_matmul_nt(float* y, const float* x, const float* w, long m, long n, long k);

}  // namespace fettle::bench
