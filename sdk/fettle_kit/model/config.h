// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/model/family.h"
#include "fettle_kit/nn/activation.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// Rotation speeds of the pairs of a head, scaling already applied (as modeling_rope_utils of transformers does).
struct Rope {
  std::vector<float> frequencies;  ///< [head_dim / 2], radians a position
  float magnitude = 1;             ///< of cosine and sine
  std::int64_t reach = 0;          ///< length of the longest text that they are for; 0: any
};

/// A decoder's shape and maths, read from config.json. Every number is in a sane range, products of them fit, and what
/// must divide divides.
struct ModelConfig {
  const Family* family = nullptr;
  std::int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  std::int64_t context = 0;  ///< max_position_embeddings, or less: what rope reaches
  float norm_eps = 0;
  Activation activation = Activation::silu;
  bool tied = false;  ///< the head is the embedding
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  float attention_scale = 1, attention_softcap = 0, logit_softcap = 0;  ///< caps: 0 is none
  float embedding_scale = 1;
  std::vector<std::int64_t> windows;  ///< per layer: 0, or how many positions it sees
  Rope rope;                          ///< of layers without a window, and of all if local_rope is empty
  Rope local_rope;                    ///< of layers with a window
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;

  const Rope& rope_of(std::int64_t layer) const {
    return windows[static_cast<std::size_t>(layer)] > 0 && !local_rope.frequencies.empty() ? local_rope : rope;
  }
  std::int64_t parameters() const;  ///< of all tensors the model reads, a tied head counted once
};

/// Reads the keys as transformers 4 and 5 write them. `name` is what errors call the file. Unknown architectures, and
/// keys that would change the maths in a way we do not compute, are refused by name.
Result<ModelConfig> read_model_config(const nlohmann::ordered_json& config, std::string_view name);

}  // namespace fettle::kit
