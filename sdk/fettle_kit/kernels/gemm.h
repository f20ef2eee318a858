// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/tensor/matrix.h"

namespace fettle::kit {

/// y[i,j] = sum_k x[i,k] * w[j,k]   (+ y[i,j] if accumulate): a linear layer, x [M, K], w [N, K], y [M, N].
///
/// K is added in index order by fused multiply-adds, one chain an element, starting from 0 (or y): the result is the same
/// bits for any thread count, blocking and instruction set. Runs on the TBB arena of the caller.
void matmul_nt(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate = false);

/// y[i,j] = sum_k x[i,k] * w[k,j]: x [M, K], w [K, N].
void matmul_nn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate = false);

/// y[i,j] = sum_k x[k,i] * w[k,j]: x [K, M], w [K, N]; weight gradients and Gram matrices.
void matmul_tn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate = false);

/// Weights as they are stored: rows of `dtype`, converted to f32 while they are packed, so that no f32 copy of the whole
/// matrix ever exists.
struct StoredMatrix {
  const std::byte* data = nullptr;  ///< [rows, cols], dense
  DType dtype = DType::f32;
  std::int64_t rows = 0, cols = 0;
};
/// As matmul_nt, bit-equal to converting w to f32 first.
void matmul_nt(MutMatrix y, ConstMatrix x, const StoredMatrix& w, bool accumulate = false);

}  // namespace fettle::kit
