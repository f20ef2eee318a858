// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/kernel_table.h"
#include "fettle_kit/tensor/dtype.h"

#include <cstddef>
#include <cstdint>

namespace fettle::kit {

/// Whether better_rows knows this type, and a model loses less with it (docs/explanation/quality.md): `weighted`, with
/// an importance matrix, types of two and three bits do not.
bool has_better_search(DType type, bool weighted);

/// Improves blocks that quantize_rows made of x [rows, cols]: searches the scales of each block anew for the smallest
/// sum of importance[column] * (x - stored)^2 (importance null: 1 each; for Q2_K and Q3_K times sqrt(mean x^2 of the
/// block + x^2)), and keeps the old block where it finds no better one. A scale of a sub-block is tried in its whole
/// range or in a window round the old one, that of the block at some sizes and by least squares; codes are always the
/// nearest. Any reader of ggml blocks reads the result; it is not what ggml writes. The same bytes on every instruction
/// set. Runs on the calling thread alone. [any thread]
void better_rows(DType type, const float* x, std::byte* blocks, std::int64_t rows, std::int64_t cols,
                 const float* importance);

/// The same with the code for some vector instructions; for tests.
void better_rows_with(Vectors vectors, DType type, const float* x, std::byte* blocks, std::int64_t rows,
                      std::int64_t cols, const float* importance);

}  // namespace fettle::kit
