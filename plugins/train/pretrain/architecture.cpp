// SPDX-License-Identifier: Apache-2.0
#include "architecture.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <filesystem>

namespace pretrain {

using namespace fettle::kit;
namespace fs = std::filesystem;

Json resized(Json config, const Sizes& sizes) {
  const auto set = [&](const char* key, const auto& value) {
    if (value) config[key] = *value;
  };
  set("hidden_size", sizes.hidden);
  set("num_hidden_layers", sizes.layers);
  set("num_attention_heads", sizes.heads);
  set("intermediate_size", sizes.intermediate);
  set("max_position_embeddings", sizes.context);
  set("tie_word_embeddings", sizes.tied);
  // As many heads for keys as for queries, unless said otherwise.
  if (sizes.kv_heads || sizes.heads) config["num_key_value_heads"] = sizes.kv_heads ? *sizes.kv_heads : *sizes.heads;
  if (sizes.hidden || sizes.heads) {
    config.erase("head_dim");
    config.erase("query_pre_attn_scalar");
  }
  if (const auto types = config.find("layer_types"); sizes.layers && types != config.end() && types->is_array()) {
    Json repeated = Json::array();
    for (std::int64_t i = 0; i < *sizes.layers && !types->empty(); ++i)
      repeated.push_back((*types)[static_cast<std::size_t>(i) % types->size()]);
    *types = std::move(repeated);
  }
  for (const char* key : {"quantization_config", "_name_or_path"}) config.erase(key);
  return config;
}

ModelConfig resized(ModelConfig c, const Sizes& sizes) {
  if (sizes.hidden) c.hidden = *sizes.hidden;
  if (sizes.layers) c.layers = *sizes.layers;
  if (sizes.heads) c.heads = *sizes.heads;
  if (sizes.intermediate) c.intermediate = *sizes.intermediate;
  if (sizes.context) c.context = *sizes.context;
  if (sizes.tied) c.tied = *sizes.tied;
  if (sizes.kv_heads || sizes.heads) c.kv_heads = sizes.kv_heads ? *sizes.kv_heads : c.heads;
  if (sizes.hidden || sizes.heads) c.head_dim = c.family->head_dim ? c.family->head_dim : c.hidden / c.heads;
  return c;
}

fettle::Status gather_tokenizer(const std::string& folder, const std::string& model) {
  for (const char* name :
       {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"}) {
    std::error_code error;
    const fs::path from = fs::canonical(fs::path(model) / name, error);
    if (error) continue;  // not every model has every file
    fs::create_symlink(from, fs::path(folder) / name, error);
    if (error) return {fettle::Code::io, fmt::format("{}/{}: cannot make a link: {}", folder, name, error.message())};
  }
  return {};
}

}  // namespace pretrain
