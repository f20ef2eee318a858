// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>

namespace fettle::kit {

/// What the heads of a layer share.
struct CausalHeads {
  std::int64_t heads = 0, kv_heads = 0;  ///< head h reads key-value head h / (heads / kv_heads)
  std::int64_t head_dim = 0;
  float scale = 1;          ///< score = scale * q.k
  float softcap = 0;        ///< 0: none; else score = softcap * tanh(score / softcap)
  std::int64_t window = 0;  ///< 0: a query sees every key up to its own; else the last `window` of them
};

/// Causal attention of one sequence, softmax(q k') v per head (Vaswani et al. 2017, section 3.2.1), by tiles of keys
/// with a running maximum (Dao et al. 2022, algorithm 1): the matrix of scores never exists.
///
///   out, q  [T, heads * head_dim]       positions S - T ... S - 1
///   k, v    [S, kv_heads * head_dim]    positions 0 ... S - 1
///
/// Tiles of keys start at multiples of 128 from position 0, and a query's result depends on nothing but its position
/// and the keys it sees: one query against cached keys gives the bits of the whole sequence. So does any number of
/// threads. Keys and values must be finite where any query of the call sees them. head_dim <= 256. Runs on the TBB
/// arena of the caller.
void causal_attention(MutMatrix out, ConstMatrix q, ConstMatrix k, ConstMatrix v, const CausalHeads& heads,
                      const KernelTable& table = kernels());
/// The same, and log_sums [T, heads]: ln of the sum of exp(score) of each query, which attention_backward wants.
void causal_attention(MutMatrix out, MutMatrix log_sums, ConstMatrix q, ConstMatrix k, ConstMatrix v,
                      const CausalHeads& heads, const KernelTable& table = kernels());

}  // namespace fettle::kit
