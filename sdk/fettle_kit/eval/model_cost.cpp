// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/model_cost.h"

#include "fettle_kit/model/decoder.h"

#include <algorithm>

namespace fettle::kit {
namespace {

// Heads may be wider together than the hidden state (Qwen3 0.6B: twice as wide); the attributes do not say.
constexpr double widest_attention = 2;

}  // namespace

ModelCost::ModelCost(const Input& model)
    : layers(model.number("layers")),
      hidden(model.number("hidden")),
      ffn(model.number("ffn")),
      vocab(model.number("vocab")),
      parameters(model.number("parameters")),
      context(model.number("context", 512)) {
  if (const double heads = model.number("heads"); heads > 0) kv_share = model.number("kv_heads", heads) / heads;
}

double ModelCost::forward_bytes(double rows) const {
  const double width = widest_attention * hidden;
  const double logits = std::max(64e6, 16 * vocab * sizeof(float));
  return Decoder::forward_bytes(rows, hidden, ffn, width, width * kv_share) + logits;
}

double ModelCost::cache_bytes(double positions) const {
  return 2 * layers * positions * widest_attention * hidden * kv_share * sizeof(float);
}

}  // namespace fettle::kit
