// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

// Included by the files of one instruction set, so nothing here may contain code.

namespace fettle::kit {

/// Searches one block of elems weights: x and w [elems], `before` the weighted error of what it holds. Rewrites the
/// block if that can be beaten.
using BlockSearch = void (*)(const float* x, const float* w, double before, uint8_t* block);

/// The searches of one instruction set.
struct BlockSearches {
  BlockSearch q4_0, q5_0, q2_k, q3_k, q4_k, q5_k, q6_k;
};

extern const BlockSearches block_searches_plain, block_searches_avx2, block_searches_avx512;

}  // namespace fettle::kit
