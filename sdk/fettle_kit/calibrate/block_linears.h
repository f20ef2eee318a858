// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/model/decoder.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
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
  /// "q_proj"
  std::string short_name() const {
    const std::string_view path = suffix.substr(0, suffix.rfind('.'));
    return std::string(path.substr(path.rfind('.') + 1));
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

/// The layer of "model.layers.N....", or -1.
inline std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view prefix = "model.layers.";
  if (!name.starts_with(prefix)) return -1;
  return std::strtoll(std::string(name.substr(prefix.size())).c_str(), nullptr, 10);
}

/// Whether a tensor is one of the seven linears of a block, whose inputs can be measured.
inline bool is_block_linear(std::string_view name) {
  const std::int64_t layer = layer_of(name);
  return layer >= 0 && std::any_of(block_linears.begin(), block_linears.end(),
                                   [&](const BlockLinear& linear) { return linear.tensor_name(layer) == name; });
}

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
