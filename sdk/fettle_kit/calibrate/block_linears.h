// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/model/decoder.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace fettle::kit {

/// One of the seven linears of a decoder block: its place in the weights, what it reads, and its name in a checkpoint.
struct BlockLinear {
  Linear BlockWeights::*member;
  Site site;
  std::string_view suffix;  ///< "self_attn.q_proj.weight"

  std::string tensor_name(std::int64_t layer) const {
    return "model.layers." + std::to_string(layer) + "." + std::string(suffix);
  }
};

/// In the order in which a block uses them.
inline constexpr std::array<BlockLinear, 7> block_linears{{
    {&BlockWeights::q, Site::attention_in, "self_attn.q_proj.weight"},
    {&BlockWeights::k, Site::attention_in, "self_attn.k_proj.weight"},
    {&BlockWeights::v, Site::attention_in, "self_attn.v_proj.weight"},
    {&BlockWeights::o, Site::attention_out, "self_attn.o_proj.weight"},
    {&BlockWeights::gate, Site::mlp_in, "mlp.gate_proj.weight"},
    {&BlockWeights::up, Site::mlp_in, "mlp.up_proj.weight"},
    {&BlockWeights::down, Site::mlp_hidden, "mlp.down_proj.weight"},
}};

/// Columns of the matrices that read a site.
inline std::int64_t width_of(Site site, const ModelConfig& config) {
  switch (site) {
    case Site::attention_in:
    case Site::mlp_in:
      return config.hidden;
    case Site::attention_out:
      return config.heads * config.head_dim;
    case Site::mlp_hidden:
      return config.intermediate;
  }
  return 0;
}

inline constexpr std::size_t site_count = 4;
inline constexpr std::size_t index_of(Site site) { return static_cast<std::size_t>(site); }

}  // namespace fettle::kit
