// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/attention.h"

namespace fettle::kit {

/// What causal_attention was given and gave for whole sequences of one length, one after the other.
struct AttentionPass {
  ConstMatrix q, k, v;   ///< [T, heads * head_dim], [T, kv_heads * head_dim] twice
  ConstMatrix out;       ///< [T, heads * head_dim]
  ConstMatrix log_sums;  ///< [T, heads]
  CausalHeads heads;
  std::int64_t length = 0;  ///< of a sequence; T is a multiple
};

/// Gradients with respect to q, k and v, overwritten, shaped like them, from dout, shaped like out. Scores are computed
/// again, tile by tile (Dao 2023, algorithm 2): P = exp(score - log_sum), dS = P (dout v' - rowsum(dout out)).
/// One task owns a key-value head of a sequence and adds tiles of keys and of queries in order: the same bits for any
/// number of threads and any table. dq, dk, dv must not overlap what they are computed from. head_dim <= 256. Runs on
/// the TBB arena of the caller.
void attention_backward(MutMatrix dq, MutMatrix dk, MutMatrix dv, ConstMatrix dout, const AttentionPass& pass,
                        const KernelTable& table = kernels());

}  // namespace fettle::kit
