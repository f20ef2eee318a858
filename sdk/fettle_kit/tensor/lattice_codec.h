// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/dtype.h"

#include <cstdint>

namespace fettle::kit::block {

// Blocks of 256 values of the IQ1, IQ2 and IQ3 types; block_codec.h has the interface for whole rows.

/// True for IQ2_XXS, IQ2_XS and IQ1_S, whose search has no weights of its own.
bool lattice_needs_importance(DType type);

/// x[256] to a block; q[256] is the importance of the columns, or null. The reference: readable, in ggml's order of
/// operations, as block_search.h says.
void encode_lattice(DType type, const float* x, const float* q, std::uint8_t* out);
/// A block to y[256].
void decode_lattice(DType type, const std::uint8_t* in, float* y);

}  // namespace fettle::kit::block
