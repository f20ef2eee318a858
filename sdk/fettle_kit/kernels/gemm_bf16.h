// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>

namespace fettle::kit {

/// A borrowed row-major matrix of stored bf16 numbers; consecutive rows are `stride` elements apart.
struct Bf16Matrix {
  const std::uint16_t* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;
};

/// What a bf16 product multiplies: f32, rounded to bf16 while it is packed (to nearest, ties to even: the bits of
/// KernelTable::f32_to_bf16), or bf16 as it is stored. Either may be a view with a row stride.
struct Bf16Operand {
  const void* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;  ///< in elements
  bool stored = false;                          ///< bf16, else f32

  Bf16Operand(ConstMatrix m) : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride) {}
  Bf16Operand(MutMatrix m) : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride) {}
  Bf16Operand(Bf16Matrix m) : data(m.data), rows(m.rows), cols(m.cols), stride(m.stride), stored(true) {}
};

// Products of bf16 numbers with f32 sums, as the AMX tile product computes them. K is padded with zeros to a multiple
// of 32. For each slice of 32, two chains of 16 fused multiply-adds start from zero, one over the even and one over the
// odd elements; their sum is added to the element of y, which starts from 0 (or y). Subnormal operands, sums and
// results count as zeros of their sign. NaN and infinity spread as in any sum; NaN has no particular payload. So the
// result is the same bits on AMX, AVX-512, AVX2 and scalar, for any thread count and blocking, and a row of y depends
// on nothing but its row of x. Runs on the TBB arena of the caller. y must not overlap x or w. Shapes that do not fit
// together end the program: a bug of the caller. `table` is for tests.

/// y[i,j] = sum_k x[i,k] * w[j,k]   (+ y[i,j] if accumulate): a linear layer, x [M, K], w [N, K], y [M, N].
void matmul_bf16_nt(MutMatrix y, Bf16Operand x, Bf16Operand w, bool accumulate = false,
                    const KernelTable& table = kernels());

/// The same with weights as they are stored, bit-equal to converting them to f32 first. What is not bf16 is converted
/// by panels of at most 4 Mi weights.
void matmul_bf16_nt(MutMatrix y, ConstMatrix x, const StoredMatrix& w, bool accumulate = false,
                    const KernelTable& table = kernels());

/// Bytes that a product of so many rows of x holds at most of factors that it packed.
std::int64_t bf16_packed_bytes(std::int64_t rows, const KernelTable& table = kernels());

/// y[i,j] = sum_k x[i,k] * w[k,j]: x [M, K], w [K, N]; dx = dy w.
void matmul_bf16_nn(MutMatrix y, Bf16Operand x, Bf16Operand w, bool accumulate = false,
                    const KernelTable& table = kernels());

/// y[i,j] = sum_k x[k,i] * w[k,j]: x [K, M], w [K, N]; dw = dy' x.
void matmul_bf16_tn(MutMatrix y, Bf16Operand x, Bf16Operand w, bool accumulate = false,
                    const KernelTable& table = kernels());

}  // namespace fettle::kit
