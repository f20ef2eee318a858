// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/kernel_table.h"
#include "fettle_kit/tensor/dtype.h"

#include <cstddef>
#include <cstdint>

namespace fettle::kit {

/// Quantizes x [rows, cols] to a ggml block type: the same bytes as encode_blocks_reference (tensor/block_codec.h),
/// from the fastest code this machine can run. cols is a multiple of the block; importance [cols], or null; all finite.
/// Runs on the calling thread alone. [any thread]
void quantize_rows(DType type, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
                   const float* importance);

/// The same with the code for some vector instructions; for tests and benches.
void quantize_rows_with(Vectors vectors, DType type, const float* x, std::byte* out, std::int64_t rows,
                        std::int64_t cols, const float* importance);

}  // namespace fettle::kit
