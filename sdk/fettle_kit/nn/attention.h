// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <cstdint>

namespace fettle::kit {

/// What all heads of a layer share.
struct AttentionShape {
  std::int64_t heads = 0, kv_heads = 0,
               head_dim = 0;  ///< heads is a multiple of kv_heads: head h reads kv head h / (heads / kv_heads)
  float scale = 1;            ///< scores are multiplied by it
  float softcap = 0;          ///< 0: none; else score = softcap * tanh(score / softcap)
  std::int64_t window = 0;    ///< 0: all earlier positions; else the last `window`, itself included
};

/// Causal attention of one sequence (Vaswani et al. 2017, section 3.2.1): out [T, heads * D] from queries [T, heads *
/// D] at positions first, first + 1, ... and keys and values [first + T, kv_heads * D] of positions 0, 1, ...; the
/// result of a query depends on its position and the keys it sees alone, so a cache of keys gives the same bits as the
/// whole sequence.
void attention(MutMatrix out, ConstMatrix queries, ConstMatrix keys, ConstMatrix values, const AttentionShape& shape,
               std::int64_t first);

}  // namespace fettle::kit
