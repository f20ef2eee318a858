// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"
#include "fettle_kit/kernels/precision.h"

namespace fettle::kit {

/// What running a model will take, from the attributes of its artifact alone; for estimate(). Weights are mapped and do
/// not count. Attributes that nobody knows count as 0.
struct ModelCost {
  explicit ModelCost(const Input& model);
  /// Private bytes of Decoder::forward on `rows` tokens at once and of the logits of Decoder::logit_rows() of them.
  double forward_bytes(double rows, Precision precision = Precision::real) const;
  double cache_bytes(double positions) const;
  /// Products and sums of `tokens` tokens through all matrices; attention's own are left out.
  double flops(double tokens) const { return 2 * parameters * tokens; }

  bool packed = false;  ///< a quantized Hugging Face checkpoint, whose matrices are decoded while they are multiplied
  bool bf16 = false;    ///< its weights are stored so
  double layers = 0, hidden = 0, ffn = 0, vocab = 0, kv_share = 1, parameters = 0, context = 0;
};

}  // namespace fettle::kit
