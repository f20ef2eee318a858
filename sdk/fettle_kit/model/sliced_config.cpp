// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/sliced_config.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

/// Lists that have nothing to do with blocks, however long they are.
constexpr std::array<std::string_view, 7> other_lists{"architectures", "bos_token_id",    "eos_token_id",
                                                      "pad_token_id",  "suppress_tokens", "begin_suppress_tokens",
                                                      "bad_words_ids"};

std::vector<std::int64_t> windows_of_kept(const ModelConfig& dense, const KeptParts& kept) {
  std::vector<std::int64_t> windows;
  for (const std::int64_t layer : kept.layers) windows.push_back(dense.windows[static_cast<std::size_t>(layer)]);
  return windows;
}

/// Renumbers what counts blocks.
Status keep_blocks(Json& config, std::string_view name, const ModelConfig& dense, const KeptParts& kept) {
  for (auto& [key, value] : config.items()) {
    if (!value.is_array() || static_cast<std::int64_t>(value.size()) != dense.layers || key == "layer_types" ||
        std::find(other_lists.begin(), other_lists.end(), key) != other_lists.end())
      continue;
    return {Code::unsupported, fmt::format("{}: '{}' has an entry for each of the {} blocks, and it is not known what "
                                           "becomes of it when blocks go",
                                           name, key, dense.layers)};
  }
  if (const auto types = config.find("layer_types"); types != config.end() && types->is_array()) {
    Json left = Json::array();
    for (const std::int64_t layer : kept.layers) left.push_back((*types)[static_cast<std::size_t>(layer)]);
    *types = std::move(left);
  } else if (dense.family->windows == WindowRule::even_layers || dense.family->windows == WindowRule::all_but_nth) {
    Json types_left = Json::array();  // the rhythm of the family is broken: say it block by block
    for (const std::int64_t window : windows_of_kept(dense, kept))
      types_left.push_back(window > 0 ? "sliding_attention" : "full_attention");
    config["layer_types"] = std::move(types_left);
  }
  if (const auto first = config.find("max_window_layers"); first != config.end() && first->is_number_integer()) {
    const auto windowed = first->get<std::int64_t>();
    *first = std::count_if(kept.layers.begin(), kept.layers.end(), [&](std::int64_t l) { return l < windowed; });
  }
  return {};
}

}  // namespace

DecoderShape shape_of(const ModelConfig& c) {
  return {c.layers, c.hidden, c.intermediate, c.heads, c.kv_heads, c.head_dim};
}

Result<Json> sliced_config(const Json& config, std::string_view name, const KeptParts& kept) {
  FETTLE_ASSIGN(const ModelConfig dense, read_model_config(config, name));
  const DecoderShape shape = kept.shape(shape_of(dense));
  Json sliced = config;
  if (shape.layers != dense.layers) FETTLE_TRY(keep_blocks(sliced, name, dense, kept));
  sliced["num_hidden_layers"] = shape.layers;
  sliced["hidden_size"] = shape.hidden;
  sliced["intermediate_size"] = shape.ffn;
  sliced["num_attention_heads"] = shape.heads;
  sliced["num_key_value_heads"] = shape.kv_heads;
  if (shape.hidden != dense.hidden || shape.heads != dense.heads) sliced["head_dim"] = shape.head_dim;

  FETTLE_ASSIGN(const ModelConfig read, read_model_config(sliced, name));
  if (read.windows != windows_of_kept(dense, kept) || read.head_dim != dense.head_dim ||
      read.attention_scale != dense.attention_scale)
    return Status(Code::unsupported,
                  fmt::format("{}: model type '{}' cannot say in its config that these blocks stay with their windows "
                              "of attention; remove blocks from its end, or none",
                              name, dense.family->model_type));
  return sliced;
}

SliceScaling slice_scaling(const ModelConfig& dense, const KeptParts& kept, bool norm_gain) {
  SliceScaling scaling;
  scaling.unit_offset = dense.family->unit_offset;
  const double rise = std::sqrt(static_cast<double>(dense.hidden) / static_cast<double>(kept.hidden.size()));
  if (norm_gain) scaling.norms = scaling.final_norm = rise;
  if (dense.embedding_scale != 1) {
    // The model multiplies the embedding by sqrt(hidden), which falls by `rise`; a tied head rises with the embedding,
    // so what it reads must fall.
    scaling.embedding = rise;
    if (dense.tied) scaling.final_norm /= rise;
  }
  return scaling;
}

}  // namespace fettle::kit
