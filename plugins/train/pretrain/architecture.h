// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/model/config.h"

#include <cstdint>
#include <optional>
#include <string>

namespace pretrain {

/// The sizes of a new model; what is not given stays as in the model whose tokenizer it gets.
struct Sizes {
  std::optional<std::int64_t> hidden, layers, heads, kv_heads, intermediate, context;
  std::optional<bool> tied;

  bool any() const { return hidden || layers || heads || kv_heads || intermediate || context || tied; }
};

/// config.json of the new model. Lists with an entry a layer are repeated or cut. Whether the sizes fit together is for
/// read_model_config to say.
fettle::kit::Json resized(fettle::kit::Json config, const Sizes& sizes);

/// The same on the shape that the attributes of a model tell.
fettle::kit::ModelConfig resized(fettle::kit::ModelConfig config, const Sizes& sizes);

/// Fills `folder` with links to what a new model takes over from the old one: the files of its tokenizer and how it is
/// asked to generate.
fettle::Status gather_tokenizer(const std::string& folder, const std::string& model);

}  // namespace pretrain
