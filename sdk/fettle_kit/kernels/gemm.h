// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/tensor/matrix.h"
#include "fettle_kit/tensor/row_source.h"

#include <cstdint>

namespace fettle::kit {

// K is added in index order by fused multiply-adds, one chain an element, starting from 0 (or y). So the result is the
// same bits for any thread count, blocking and instruction set, and a row of y depends on nothing but its row of x.
// Runs on the TBB arena of the caller. y must not overlap x or w. Shapes that do not fit together end the program: a
// bug of the caller. `table` is for tests.

/// y[i,j] = sum_k x[i,k] * w[j,k]   (+ y[i,j] if accumulate): a linear layer, x [M, K], w [N, K], y [M, N].
void matmul_nt(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate = false,
               const KernelTable& table = kernels());

/// y[i,j] = sum_k x[i,k] * w[k,j]: x [M, K], w [K, N].
void matmul_nn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate = false,
               const KernelTable& table = kernels());

/// y[i,j] = sum_k x[k,i] * w[k,j]: x [K, M], w [K, N]; weight gradients and Gram matrices.
void matmul_tn(MutMatrix y, ConstMatrix x, ConstMatrix w, bool accumulate = false,
               const KernelTable& table = kernels());

/// Weights as they are stored: rows of `dtype`, converted to f32 while they are packed, so that no f32 copy of the
/// whole matrix ever exists.
struct StoredMatrix {
  const std::byte* data = nullptr;    ///< [rows, cols], dense; any alignment
  DType dtype = DType::f32;           ///< one that has to_f32
  std::int64_t rows = 0, cols = 0;    ///< cols is a multiple of the dtype's block
  const RowSource* source = nullptr;  ///< makes the rows, in place of data and dtype
};
/// out [n, w.cols]: the rows of w from `first` on, as f32.
void read_rows(MutMatrix out, const StoredMatrix& w, std::int64_t first);
/// Weights that a product holds as f32 at a time where it cannot multiply with them as they are: 16 MiB.
inline constexpr std::int64_t kPanelWeights = std::int64_t{4} << 20;
/// As matmul_nt, bit-equal to converting w to f32 first.
void matmul_nt(MutMatrix y, ConstMatrix x, const StoredMatrix& w, bool accumulate = false,
               const KernelTable& table = kernels());

}  // namespace fettle::kit
