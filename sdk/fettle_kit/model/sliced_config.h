// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/slicing.h"
#include "fettle_kit/model/config.h"

#include <string_view>

namespace fettle::kit {

DecoderShape shape_of(const ModelConfig& config);

/// config.json of a model that keeps `kept` of the one that `config` describes: sizes, an explicit head_dim where
/// hidden size or heads change, and everything that counts blocks (layer_types, max_window_layers) renumbered, so that
/// every kept block sees the window it saw. `name` is what errors call the file. unsupported, by name, for a list with
/// an entry a block that nobody knows here.
Result<Json> sliced_config(const Json& config, std::string_view name, const KeptParts& kept);

/// What the stored values of such a model must be multiplied by so that it computes what the dense one would with the
/// removed channels at zero. `norm_gain`: norms average over fewer channels, so that without it they come out larger.
SliceScaling slice_scaling(const ModelConfig& dense, const KeptParts& kept, bool norm_gain);

}  // namespace fettle::kit
