// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/config.h"

#include "fettle_kit/model/config_keys.h"
#include "fettle_kit/model/rope_scaling.h"

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <utility>

namespace fettle::kit {
namespace {

using Json = nlohmann::ordered_json;

// Far above any model, and small enough that every product of them fits in 63 bits; heads as wide as attention takes.
constexpr std::int64_t max_hidden = 1 << 20, max_intermediate = 1 << 22, max_layers = 1 << 14, max_heads = 1 << 14,
                       max_head_dim = 256, max_attention = 1 << 22, max_vocab = 1 << 26;

Result<const Family*> read_family(const Json& config, std::string_view name) {
  if (!config.is_object()) return Status(Code::corrupt_data, fmt::format("{}: not a JSON object", name));
  ConfigKeys keys(config, name);
  const std::string type = keys.text("model_type", "");
  FETTLE_TRY(keys.status);
  if (const Family* family = find_family(type)) return family;
  if (type.empty()) return Status(Code::corrupt_data, fmt::format("{}: 'model_type' is missing", name));
  std::string known;
  for (const Family& family : families()) known += fmt::format("{}{}", known.empty() ? "" : ", ", family.model_type);
  return Status(Code::unsupported,
                fmt::format("{}: model type '{}' is not supported; supported are {}", name, type, known));
}

/// Keys that change the maths of a decoder, with the one value under which they do not: computing without them would
/// give wrong numbers quietly.
void refuse_other_maths(ConfigKeys& keys, const Family& family) {
  static const std::pair<const char*, Json> neutral[] = {
      {"partial_rotary_factor", 1.0}, {"residual_multiplier", 1.0},   {"embedding_multiplier", 1.0},
      {"attention_multiplier", 1.0},  {"logits_scaling", 1.0},        {"logit_scale", 1.0},
      {"clip_qkv", nullptr},          {"num_local_experts", 0},       {"num_experts", 0},
      {"per_layer_config", nullptr},  {"block_configs", nullptr},     {"use_bidirectional_attention", false},
      {"is_encoder_decoder", false},  {"add_cross_attention", false},
  };
  const auto expect = [&](const char* key, const Json& value) {
    if (const Json* found = keys.find(key); found && *found != value)
      keys.fail(
          fmt::format("'{}' is {}: that changes what the model computes and is not supported", key, shown(*found)),
          Code::unsupported);
  };
  for (const auto& [key, value] : neutral) expect(key, value);
  if (!family.scaled_by_query_scalar)  // Gemma's own
    for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) expect(key, nullptr);
  if (const Json* quantized = keys.find("quantization_config")) {
    const bool named = quantized->is_object() && quantized->contains("quant_method");
    keys.fail(fmt::format("the weights are stored in the form of quantization method {}, which is not supported; start "
                          "from the original checkpoint",
                          named ? shown((*quantized)["quant_method"]) : "unknown"),
              Code::unsupported);
  }
}

std::vector<std::int64_t> read_windows(ConfigKeys& keys, const Family& family, std::int64_t layers) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  if (family.windows == WindowRule::none || keys.is_null("sliding_window")) return windows;
  if (family.windows == WindowRule::every_layer_if_given && !keys.find("sliding_window")) return windows;
  const std::int64_t window = keys.integer("sliding_window", 1, INT32_MAX, 4096);  // 4096: what transformers assumes
  const Json* types = keys.find("layer_types");
  if (types && (!types->is_array() || types->size() != windows.size())) {
    keys.fail(fmt::format("'layer_types' is {}, expected {} strings, one a layer", shown(*types), layers));
    return windows;
  }
  const bool from_layer = keys.flag("use_sliding_window", false);
  const std::int64_t first = keys.integer("max_window_layers", 0, INT32_MAX, 28);
  const std::int64_t period =
      keys.integer("sliding_window_pattern", 1, INT32_MAX, keys.integer("_sliding_window_pattern", 1, INT32_MAX, 6));

  const auto slides = [&](std::int64_t layer) {
    if (types) {
      const Json& type = (*types)[static_cast<std::size_t>(layer)];
      if (type != "full_attention" && type != "sliding_attention")
        keys.fail(fmt::format("'layer_types' holds {}; supported are \"full_attention\" and \"sliding_attention\"",
                              shown(type)),
                  Code::unsupported);
      return type == "sliding_attention";
    }
    switch (family.windows) {
      case WindowRule::none:
        return false;
      case WindowRule::every_layer:
      case WindowRule::every_layer_if_given:
        return true;
      case WindowRule::from_max_layer:
        return from_layer && layer >= first;
      case WindowRule::even_layers:
        return layer % 2 == 0;
      case WindowRule::all_but_nth:
        return (layer + 1) % period != 0;
    }
    return false;
  };
  for (std::int64_t i = 0; i < layers; ++i)
    if (slides(i)) windows[static_cast<std::size_t>(i)] = window;
  return windows;
}

Activation read_activation(ConfigKeys& keys, const Family& family) {
  const std::string key(family.activation_key);
  const std::string name = keys.text(key.c_str(), family.activation);
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::gelu_tanh;
  if (name != "silu" && name != "swish")
    keys.fail(fmt::format("'{}' is '{}'; supported are silu and gelu_pytorch_tanh", key, name), Code::unsupported);
  return Activation::silu;
}

/// An id, or a list of them.
std::vector<std::int32_t> read_ids(ConfigKeys& keys, const char* key, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  const Json* value = keys.find(key);
  if (!value) return ids;
  for (const Json& item : value->is_array() ? *value : Json::array({*value})) {
    const bool valid = item.is_number_integer() && item >= 0 && item < vocab;
    if (valid)
      ids.push_back(item.get<std::int32_t>());
    else
      keys.fail(fmt::format("'{}' is {}, expected a token id below {}", key, shown(item), vocab));
  }
  return ids;
}

void check_divisibility(ConfigKeys& keys, const ModelConfig& c) {
  if (c.heads % c.kv_heads != 0)
    keys.fail(
        fmt::format("'num_attention_heads' is {}, not a multiple of 'num_key_value_heads' {}", c.heads, c.kv_heads));
  if (c.head_dim % 2 != 0) keys.fail(fmt::format("the heads are {} wide; rope needs an even width", c.head_dim));
  if (c.heads * c.head_dim > max_attention)
    keys.fail(
        fmt::format("{} heads of width {} are beyond the limit of {} together", c.heads, c.head_dim, max_attention));
}

}  // namespace

std::int64_t ModelConfig::parameters() const {
  const std::int64_t q = heads * head_dim, kv = kv_heads * head_dim;
  std::int64_t block = 2 * hidden * (q + kv) + 3 * hidden * intermediate + (family->sandwich_norms ? 4 : 2) * hidden;
  if (qkv_bias) block += q + 2 * kv;
  if (output_bias) block += hidden;
  if (mlp_bias) block += 2 * intermediate + hidden;
  if (family->qk_norm) block += 2 * head_dim;
  return layers * block + hidden + vocab * hidden * (tied ? 1 : 2);
}

Result<ModelConfig> read_model_config(const Json& config, std::string_view name) {
  FETTLE_ASSIGN(const Family* family, read_family(config, name));
  ConfigKeys keys(config, name);
  refuse_other_maths(keys, *family);

  ModelConfig c;
  c.family = family;
  c.hidden = keys.integer("hidden_size", 1, max_hidden);
  c.intermediate = keys.integer("intermediate_size", 1, max_intermediate);
  c.layers = keys.integer("num_hidden_layers", 1, max_layers);
  c.heads = keys.integer("num_attention_heads", 1, max_heads);
  c.kv_heads = keys.integer("num_key_value_heads", 1, max_heads, c.heads);
  if (!keys.find("head_dim") && family->head_dim == 0 && c.hidden % c.heads != 0)
    keys.fail(fmt::format("'hidden_size' is {}, not a multiple of 'num_attention_heads' {}, and there is no 'head_dim'",
                          c.hidden, c.heads));
  c.head_dim = keys.integer("head_dim", 1, max_head_dim, family->head_dim ? family->head_dim : c.hidden / c.heads);
  c.vocab = keys.integer("vocab_size", 1, max_vocab);
  c.context = keys.integer("max_position_embeddings", 1, INT32_MAX);
  check_divisibility(keys, c);

  c.norm_eps = static_cast<float>(keys.real("rms_norm_eps", 0, 1, 1e-6));
  c.activation = read_activation(keys, *family);
  c.tied = keys.flag("tie_word_embeddings", family->tied);
  const bool attention_bias = family->qkv_bias == BiasRule::by_key && keys.flag("attention_bias", false);
  c.qkv_bias = attention_bias || family->qkv_bias == BiasRule::always;
  c.output_bias = attention_bias;
  c.mlp_bias = family->mlp_bias_key && keys.flag("mlp_bias", false);

  const auto head_dim = static_cast<double>(c.head_dim);
  const double scalar = family->scaled_by_query_scalar ? keys.real("query_pre_attn_scalar", 1e-3, 1e9, 256) : head_dim;
  c.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
  const auto cap = [&](const char* key, double usual) {
    return keys.is_null(key) ? 0.0f : static_cast<float>(keys.real(key, 1e-3, 1e9, usual));
  };
  c.attention_softcap = cap("attn_logit_softcapping", family->attention_softcap);
  c.logit_softcap = cap("final_logit_softcapping", family->logit_softcap);
  if (family->unit_offset) c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.hidden)));

  c.windows = read_windows(keys, *family, c.layers);
  const auto bos = read_ids(keys, "bos_token_id", c.vocab);
  if (!bos.empty()) c.bos = bos.front();
  c.eos = read_ids(keys, "eos_token_id", c.vocab);
  FETTLE_TRY(keys.status);

  FETTLE_ASSIGN(c.rope, read_rope(config, name, {c.head_dim, c.context, family->rope_theta}));
  if (c.rope.reach > 0) c.context = std::min(c.context, c.rope.reach);
  if (family->local_rope_theta > 0) {
    FETTLE_ASSIGN(c.local_rope, read_local_rope(config, name, {c.head_dim, c.context, family->local_rope_theta}));
  }
  return c;
}

}  // namespace fettle::kit
