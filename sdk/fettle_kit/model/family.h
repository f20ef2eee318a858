// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace fettle::kit {

/// Which layers see only a window of earlier positions, where the config has no `layer_types`.
enum class WindowRule {
  none,
  every_layer,     ///< if `sliding_window` is set, or missing
  every_layer_if_given,
  from_max_layer,  ///< layers >= `max_window_layers`, if `use_sliding_window`
  even_layers,
  all_but_nth,  ///< layer i unless (i + 1) is a multiple of `sliding_window_pattern`
};

enum class BiasRule { never, by_key, always };

/// What tells one decoder family from another: facts, not code, as the configuration classes of transformers have them.
struct Family {
  std::string_view model_type;              ///< of config.json
  std::string_view architecture;            ///< the class of transformers
  BiasRule qkv_bias;                        ///< by_key: `attention_bias`, which then gives o_proj a bias too
  bool mlp_bias_key;                        ///< obeys `mlp_bias`
  bool qk_norm;                             ///< RMSNorm over each head of q and k before rope
  bool sandwich_norms;                      ///< norms after attention and MLP too, inside the residual branch
  bool unit_offset;                         ///< norms multiply by 1 + w; the embedding is multiplied by sqrt(hidden)
  bool scaled_by_query_scalar;              ///< attention scale is query_pre_attn_scalar^-0.5, not head_dim^-0.5
  double attention_softcap, logit_softcap;  ///< where the config has no such key; 0: none
  std::string_view activation_key, activation;
  WindowRule windows;
  std::int64_t head_dim;    ///< where the config has none; 0: hidden / heads
  bool tied;                ///< where the config does not say
  double rope_theta;        ///< where the config has none
  double local_rope_theta;  ///< of windowed layers; 0: the same as the others
};

std::span<const Family> families();
const Family* find_family(std::string_view model_type);

}  // namespace fettle::kit
