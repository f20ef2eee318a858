// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/backend.h"
#include "fettle_kit/model/config.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/model/network.h"

namespace fettle::kit {

/// A linear layer y = x w' + b; no bias: null.
struct TrainableLinear {
  Parameter *weight = nullptr, *bias = nullptr;
};

/// One block of a Network: which parameters, and how it differs from other blocks. Norms that the family lacks are
/// null.
struct TrainableBlock {
  TrainableLinear q, k, v, o, gate, up, down;
  Parameter *attention_norm = nullptr, *mlp_norm = nullptr, *post_attention_norm = nullptr, *post_mlp_norm = nullptr,
            *q_norm = nullptr, *k_norm = nullptr;
  std::int64_t window = 0;
  Array cos, sin;  ///< of its rope, [length, head_dim / 2]
};

/// What a block's backward needs of its forward beside its input. Rows are the batch's.
struct BlockActivations {
  Array attention_in, attention_rstd;  ///< normed input; [rows, hidden], [rows, 1]
  Array q_raw, q_rstd, k_raw, k_rstd;  ///< before the norm over each head, where there is one
  Array q, k, v;                       ///< after rope
  Array mixed, log_sums;               ///< attention's output
  Array attention_out, post_attention_rstd;
  Array middle;  ///< the residual stream between attention and MLP
  Array mlp_in, mlp_rstd;
  Array gate, up, gated;
  Array mlp_out, post_mlp_rstd;

  /// `flow` is the element of what only goes into products.
  static BlockActivations allocate(Backend& backend, const ModelConfig& config, std::int64_t rows, Element flow);
};

/// Gradients on their way through a block, one set for all blocks.
struct BlockGradients {
  Array branch, in;  ///< [rows, hidden]
  Array q, k, v, mixed;
  Array gated, gate, up;

  static BlockGradients allocate(Backend& backend, const ModelConfig& config, std::int64_t rows, Element flow);
};

struct BlockContext {
  Backend& backend;
  const ModelConfig& config;
  Precision precision;
  Batch batch;
};

/// out [rows, hidden] = block(x); out may not be x. With `again`, only what backward wants is computed, and out is room
/// for it.
void forward(const BlockContext& context, const TrainableBlock& block, const Array& out, const Array& x,
             BlockActivations& kept, bool again);
/// dx holds the gradient of out and becomes that of x; gradients of parameters are accumulated.
void backward(const BlockContext& context, const TrainableBlock& block, const Array& dx, const Array& x,
              const BlockActivations& kept, BlockGradients& room);

}  // namespace fettle::kit
