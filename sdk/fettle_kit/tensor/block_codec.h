// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/dtype.h"

#include <cstddef>
#include <cstdint>

namespace fettle::kit {

/// True for the block types, all of which this toolkit reads and writes.
bool has_block_codec(DType type);

/// True for the types whose search knows no weights but those of an importance matrix: IQ2_XXS, IQ2_XS and IQ1_S.
bool needs_importance(DType type);

/// The reference quantizer: x [rows, cols] f32 and finite, cols a multiple of the block, to rows * cols elements of
/// `type`. importance [cols], or null (not for a type that needs_importance): how much a squared error in each column
/// counts (types that ignore it, ignore it). Byte-identical to ggml on x86-64 for the same floats
/// (docs/reference/gguf.md). Readable and slow; compress/quantize_rows gives the same bytes sooner. [any thread]
void encode_blocks_reference(DType type, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
                             const float* importance);

/// n elements (a multiple of the block) to f32. [any thread]
void decode_blocks(DType type, const std::byte* blocks, float* out, std::size_t n);

}  // namespace fettle::kit
