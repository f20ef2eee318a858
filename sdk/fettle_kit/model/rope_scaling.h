// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/model/config.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string_view>

namespace fettle::kit {

/// What a config leaves to its architecture.
struct RopeDefaults {
  std::int64_t head_dim = 0, context = 0;
  double theta = 1e4;
  std::int64_t original_context = 4096;  ///< of LongRoPE
};

/// The rotation of layers that see everything: `rope_parameters` (transformers 5; maybe one entry a kind of layer),
/// else `rope_theta` with `rope_scaling`. Types default, linear, dynamic (which is default within the context), llama3,
/// yarn.
Result<Rope> read_rope(const nlohmann::ordered_json& config, std::string_view name, const RopeDefaults& defaults);
/// The rotation of layers with a window, where a family has one of its own: `rope_local_base_freq` in the older form.
Result<Rope> read_local_rope(const nlohmann::ordered_json& config, std::string_view name, const RopeDefaults& defaults);

}  // namespace fettle::kit
