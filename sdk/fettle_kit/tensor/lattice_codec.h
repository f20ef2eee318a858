// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/dtype.h"

#include <cstdint>

namespace fettle::kit::block {

// Blocks of 256 values of the IQ1, IQ2 and IQ3 types; block_codec.h has the interface for whole rows.

/// What the search of a type with signs (IQ2, IQ3) depends on. It tries 2 tries + 1 scales a sub-block, finds for each
/// the points near the magnitudes, and keeps the scale whose points correlate best with them.
struct SignedSearch {
  /// Which groups get a new point for the scale in the end: those that took a neighbour of what they wanted; all, if
  /// any took one; all, always.
  enum class Again { neighbours, all_if_any, all };

  int sub_block;       ///< values that share a scale: 16 or 32
  bool even_signs;     ///< the number of minus signs among 8 values is even: the least important value changes sign
  float sigma;         ///< factor of the mean square of the block in the importance of a value
  float negligible;    ///< magnitudes below are zero
  int tries;           ///< on each side of the scale that puts the largest magnitude at the highest level
  float step;          ///< between tries, in units of half a level
  float top;           ///< what the highest level stands for in the search: 5 or 15
  bool from_best_fit;  ///< tries lie around the least-squares scale of codes 0 .. 4 instead
  Again again;
  float enlarged;  ///< factor of the scale of the block as stored
};
const SignedSearch& signed_search(DType type);

/// True for IQ2_XXS, IQ2_XS and IQ1_S, whose search has no weights of its own.
bool lattice_needs_importance(DType type);

/// x[256] to a block; q[256] is the importance of the columns, or null. The reference: readable, in ggml's order of
/// operations, as block_search.h says.
void encode_lattice(DType type, const float* x, const float* q, std::uint8_t* out);
/// A block to y[256].
void decode_lattice(DType type, const std::uint8_t* in, float* y);

}  // namespace fettle::kit::block
