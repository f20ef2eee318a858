// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/model_cost.h"

#include "fettle_kit/kernels/gemm_bf16.h"
#include "fettle_kit/model/decoder.h"

#include <algorithm>
#include <iterator>
#include <string_view>

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
  constexpr std::string_view plain[] = {"", "f32", "f16", "bf16", "mixed"};
  const std::string_view weights = model.attribute("weights");
  bf16 = weights == "bf16" || weights == "gguf.BF16";
  packed =
      model.attribute("layout") == "hf" && std::find(std::begin(plain), std::end(plain), weights) == std::end(plain);
  if (const double heads = model.number("heads"); heads > 0) kv_share = model.number("kv_heads", heads) / heads;
}

double ModelCost::forward_bytes(double rows, Precision precision) const {
  const double width = widest_attention * hidden;
  const double at_once = std::max(16.0, (16 << 20) / std::max(1.0, vocab));  // Decoder::logit_rows()
  const double logits = std::min(rows, at_once) * vocab * sizeof(float);
  const double factors =
      precision == Precision::bf16 ? static_cast<double>(bf16_packed_bytes(static_cast<std::int64_t>(rows))) : 0;
  // What no kernel multiplies with as it is stored becomes f32 panel by panel (panels.h).
  const bool panels = packed || (precision == Precision::bf16 && !bf16);
  const double panel = panels ? std::min<double>(kPanelWeights, hidden * std::max({width, ffn, vocab})) : 0;
  return Decoder::forward_bytes(rows, hidden, ffn, width, width * kv_share) + logits + factors + panel * sizeof(float);
}

double ModelCost::cache_bytes(double positions) const {
  return 2 * layers * positions * widest_attention * hidden * kv_share * sizeof(float);
}

}  // namespace fettle::kit
