// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/gguf_layout.h"

#include "fettle_kit/io/fused_tensors.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numbers>
#include <optional>
#include <tuple>
#include <utility>

namespace fettle::kit {
namespace {

constexpr std::pair<std::string_view, std::string_view> kArchitectures[] = {
    // model_type, general.architecture
    {"llama", "llama"},   {"mistral", "llama"},      {"qwen2", "qwen2"},   {"qwen3", "qwen3"},        {"phi3", "phi3"},
    {"gemma2", "gemma2"}, {"gemma3_text", "gemma3"}, {"mixtral", "llama"}, {"qwen3_moe", "qwen3moe"},
};

/// Mixtures of experts: the dense family that has all else, and the key of their width.
struct ExpertFamily {
  std::string_view model_type, dense;
  const char* width;
  std::string_view module, gate, up, down;
};
constexpr ExpertFamily kExpertFamilies[] = {
    {"mixtral", "llama", "intermediate_size", "block_sparse_moe", "w1", "w3", "w2"},
    {"qwen3_moe", "qwen3", "moe_intermediate_size", "mlp", "gate_proj", "up_proj", "down_proj"},
};

constexpr std::pair<std::string_view, std::string_view> kGlobalNames[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"lm_head.weight", "output.weight"},
    {"model.norm.weight", "output_norm.weight"},
};

struct BlockName {
  std::string_view hf, gguf;
};
constexpr BlockName kBlockNames[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
/// What differs from that, looked at first. The whole stands before its parts.
constexpr BlockName kGemmaNames[] = {
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
};
constexpr BlockName kPhi3Names[] = {
    {"self_attn.qkv_proj", "attn_qkv"}, {"self_attn.q_proj", "attn_qkv"}, {"self_attn.k_proj", "attn_qkv"},
    {"self_attn.v_proj", "attn_qkv"},   {"mlp.gate_up_proj", "ffn_up"},   {"mlp.gate_proj", "ffn_up"},
    {"mlp.up_proj", "ffn_up"},
};

/// The router and the stacks of experts' matrices.
constexpr BlockName kMixtralNames[] = {{"block_sparse_moe.gate", "ffn_gate_inp"},
                                       {"block_sparse_moe.experts.w1", "ffn_gate_exps"},
                                       {"block_sparse_moe.experts.w3", "ffn_up_exps"},
                                       {"block_sparse_moe.experts.w2", "ffn_down_exps"}};
constexpr BlockName kQwen3MoeNames[] = {{"mlp.gate", "ffn_gate_inp"},
                                        {"mlp.experts.gate_proj", "ffn_gate_exps"},
                                        {"mlp.experts.up_proj", "ffn_up_exps"},
                                        {"mlp.experts.down_proj", "ffn_down_exps"}};

/// "model.layers.12.mlp.up_proj.weight" -> {12, "mlp.up_proj", ".weight"}; nothing if it is not of that form.
struct LayerName {
  std::int64_t layer;
  std::string_view part, suffix;
};
std::optional<LayerName> parse_layer_name(std::string_view name) {
  constexpr std::string_view prefix = "model.layers.";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::int64_t layer = 0;
  std::size_t digits = 0;
  while (digits < name.size() && digits < 6 && name[digits] >= '0' && name[digits] <= '9')
    layer = layer * 10 + (name[digits++] - '0');
  if (digits == 0 || digits >= name.size() || name[digits] != '.' || (digits > 1 && name[0] == '0'))
    return std::nullopt;
  name.remove_prefix(digits + 1);
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  return LayerName{layer, name.substr(0, dot), name.substr(dot)};
}

/// "model.layers.0.mlp.experts.3.up_proj.weight" is expert 3 of "model.layers.0.mlp.experts.up_proj.weight".
struct ExpertName {
  std::string stack;
  std::int64_t expert;
};
std::optional<ExpertName> parse_expert_name(const std::string& name) {
  constexpr std::string_view experts = ".experts.";
  const std::size_t at = name.find(experts);
  if (at == std::string::npos) return std::nullopt;
  const std::size_t first = at + experts.size(), dot = name.find('.', first);
  if (dot == std::string::npos || dot == first || dot - first > 5) return std::nullopt;
  std::int64_t expert = 0;
  for (std::size_t i = first; i < dot; ++i) {
    if (name[i] < '0' || name[i] > '9') return std::nullopt;
    expert = expert * 10 + (name[i] - '0');
  }
  return ExpertName{name.substr(0, first) + name.substr(dot + 1), expert};
}

/// What a checkpoint may hold beside the model: caches, and scales of quantized keys and values.
bool is_no_weight(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".attention.masked_bias") || name.ends_with(".k_scale") || name.ends_with(".v_scale");
}

bool is_gemma(std::string_view architecture) { return architecture == "gemma2" || architecture == "gemma3"; }

/// All names of tensors of a block, those of the architecture first.
std::vector<BlockName> block_names(std::string_view architecture) {
  std::vector<BlockName> names;
  if (is_gemma(architecture)) names.assign(std::begin(kGemmaNames), std::end(kGemmaNames));
  if (architecture == "phi3") names.assign(std::begin(kPhi3Names), std::end(kPhi3Names));
  names.insert(names.end(), std::begin(kBlockNames), std::end(kBlockNames));
  if (architecture == "llama") names.insert(names.end(), std::begin(kMixtralNames), std::end(kMixtralNames));
  if (architecture == "qwen3moe") names.insert(names.end(), std::begin(kQwen3MoeNames), std::end(kQwen3MoeNames));
  return names;
}

/// -1 for tensors outside the layers.
std::int64_t layer_of(std::string_view gguf_name) {
  if (!gguf_name.starts_with("blk.")) return -1;
  std::int64_t layer = 0;
  for (std::size_t i = 4; i < gguf_name.size() && gguf_name[i] != '.'; ++i) layer = layer * 10 + (gguf_name[i] - '0');
  return layer;
}

const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}
std::optional<double> number(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value && value->is_number() ? std::optional(value->get<double>()) : std::nullopt;
}
std::optional<std::int64_t> integer(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value && value->is_number_integer() ? std::optional(value->get<std::int64_t>()) : std::nullopt;
}
std::string text(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value && value->is_string() ? value->get<std::string>() : std::string();
}

/// Rope parameters of the layers that see everything, wherever this version of transformers keeps them.
const Json& rope_parameters(const Json& config) {
  static const Json none = Json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"})
    if (const Json* value = find(config, key)) {
      const Json* full = find(*value, "full_attention");
      return full ? *full : *value;
    }
  return none;
}
std::string rope_type(const Json& rope) {
  const std::string type = text(rope, "rope_type");
  return type.empty() ? text(rope, "type") : type;
}

std::int64_t head_dim_of(const Json& config, std::string_view architecture) {
  if (const auto dim = integer(config, "head_dim")) return *dim;
  if (is_gemma(architecture)) return 256;
  const std::int64_t heads = integer(config, "num_attention_heads").value_or(0);
  return heads > 0 ? integer(config, "hidden_size").value_or(0) / heads : 0;
}

/// The head is the embedding: a copy of it that some checkpoints store is never used.
bool is_tied(const Json& config, std::string_view architecture) {
  const Json* tied = find(config, "tie_word_embeddings");
  return tied && tied->is_boolean() ? tied->get<bool>() : is_gemma(architecture);
}

Status unsupported(std::string message) { return {Code::unsupported, "config.json: " + std::move(message)}; }

/// What llama.cpp fixes for Gemma 2 and 3 and a config may say otherwise. `largest`: layers of the 27B model, which
/// scales by hidden / heads; `period`: every so-manieth layer sees everything, the others a window.
Status check_gemma(const Json& config, std::string_view architecture, std::int64_t largest, std::size_t period) {
  const std::int64_t head_dim = head_dim_of(config, architecture);
  const auto scalar = number(config, "query_pre_attn_scalar").value_or(256);
  const auto expected =
      integer(config, "num_hidden_layers") == largest
          ? integer(config, "hidden_size").value_or(0) / integer(config, "num_attention_heads").value_or(1)
          : head_dim;
  if (scalar != static_cast<double>(expected))
    return unsupported(
        fmt::format("'query_pre_attn_scalar' is {:g}, but llama.cpp scales {} by {}", scalar, architecture, expected));
  if (const Json* types = find(config, "layer_types"); types && types->is_array())
    for (std::size_t i = 0; i < types->size(); ++i)
      if ((*types)[i] != ((i + 1) % period == 0 ? "full_attention" : "sliding_attention"))
        return unsupported(
            fmt::format("'layer_types' has {} at layer {}, but llama.cpp gives {} full attention in "
                        "every {} layer and a window in the others",
                        (*types)[i].dump(), i, architecture, period == 2 ? "second" : "sixth"));
  return {};
}

Status check_gemma2(const Json& config) {
  FETTLE_TRY(check_gemma(config, "gemma2", 46, 2));
  for (const char* cap : {"attn_logit_softcapping", "final_logit_softcapping"})
    if (const auto it = config.find(cap); it != config.end() && !it->is_number())
      return unsupported(fmt::format("'{}' is {}, but llama.cpp caps the logits of gemma2", cap, it->dump()));
  if (const auto theta =
          number(rope_parameters(config), "rope_theta").value_or(number(config, "rope_theta").value_or(1e4));
      theta != 1e4)
    return unsupported(fmt::format("'rope_theta' is {:g}, but a gemma2 GGUF file cannot say so: it is 10000", theta));
  return {};
}

Status check_gemma3(const Json& config) {
  FETTLE_TRY(check_gemma(config, "gemma3", 62, 6));
  if (find(config, "attn_logit_softcapping"))
    return unsupported("'attn_logit_softcapping' has no place in a gemma3 GGUF file");
  return {};
}

/// Phi-3: what its config says of rope, here or there.
bool is_long_rope(const Json& config) {
  const std::string type = rope_type(rope_parameters(config));
  return type == "longrope" || type == "su";
}
std::int64_t original_context(const Json& config) {
  const auto original = integer(rope_parameters(config), "original_max_position_embeddings");
  return original ? *original : integer(config, "original_max_position_embeddings").value_or(4096);
}
/// Numbers of a head that are rotated.
std::int64_t rotated_of(const Json& config) {
  auto share = number(rope_parameters(config), "partial_rotary_factor");
  if (!share) share = number(config, "partial_rotary_factor");
  const std::int64_t head_dim = head_dim_of(config, "phi3");
  return share && *share > 0 && *share < 1 ? static_cast<std::int64_t>(*share * static_cast<double>(head_dim))
                                           : head_dim;
}
/// By how much frequencies are divided; empty if the config has none.
std::vector<float> long_rope_factors(const Json& config, const char* key) {
  std::vector<float> factors;
  const Json* list = is_long_rope(config) ? find(rope_parameters(config), key) : nullptr;
  if (list && list->is_array())
    for (const Json& factor : *list) factors.push_back(factor.is_number() ? factor.get<float>() : 0.0F);
  return factors;
}
/// What cosine and sine are multiplied by in a longer context (Ding et al. 2024, LongRoPE, as transformers has it).
double long_rope_magnitude(const Json& config) {
  const auto original = static_cast<double>(original_context(config));
  const double factor = number(rope_parameters(config), "factor")
                            .value_or(number(config, "max_position_embeddings").value_or(0) / original);
  return factor > 1 ? std::sqrt(1 + std::log(factor) / std::log(original)) : 1;
}

/// What llama.cpp fixes for Phi-3 and a config may say otherwise.
Status check_phi3(const Json& config) {
  const std::int64_t hidden = integer(config, "hidden_size").value_or(0),
                     heads = integer(config, "num_attention_heads").value_or(0), head_dim = head_dim_of(config, "phi3");
  constexpr std::int64_t most = 1 << 20;
  if (heads < 1 || heads > most || head_dim < 1 || head_dim > most)
    return unsupported(fmt::format("it has {} heads of {} numbers", heads, head_dim));
  const std::int64_t width = heads * head_dim;
  if (width != hidden)
    return unsupported(
        fmt::format("the heads are {} wide in all, but llama.cpp wants 'hidden_size' of them in a phi3, {}: keep all "
                    "heads when you prune one for llama.cpp",
                    width, hidden));
  const std::string type = rope_type(rope_parameters(config));
  if (!type.empty() && type != "default" && !is_long_rope(config))
    return unsupported(
        fmt::format("rope type '{}' has no place in a phi3 GGUF file; known are default and longrope", type));
  if (!is_long_rope(config)) return {};
  if (original_context(config) < 2)
    return unsupported(
        fmt::format("'original_max_position_embeddings' is {}, expected 2 or more", original_context(config)));
  for (const char* key : {"long_factor", "short_factor"}) {
    const auto factors = long_rope_factors(config, key);
    const auto expected = static_cast<std::size_t>(rotated_of(config) / 2);
    if (factors.size() != expected ||
        !std::all_of(factors.begin(), factors.end(), [](float f) { return std::isfinite(f) && f > 0; }))
      return unsupported(fmt::format("rope's '{}' is not {} positive numbers, one a pair", key, expected));
  }
  return {};
}

/// What llama.cpp fixes for mixtures of experts and a config may say otherwise.
Status check_experts(const Json& config, const GgufExperts& experts) {
  constexpr std::int64_t most = 1 << 16;
  if (experts.count < 2 || experts.count > most || experts.used < 1 || experts.used > experts.count)
    return unsupported(fmt::format("it has {} experts and uses {} of them, expected 2 to {} and at least one of them",
                                   experts.count, experts.used, most));
  if (text(config, "model_type") != "qwen3_moe") return {};
  // The keys of Qwen3: llama.cpp scales the weights of the chosen experts to a sum of 1, and has experts in all layers.
  const Json* scaled = find(config, "norm_topk_prob");
  if (!scaled || *scaled != true)
    return unsupported(
        "'norm_topk_prob' is not true, but llama.cpp scales the weights of the experts in use to a sum of 1");
  const Json* dense = find(config, "mlp_only_layers");
  if (integer(config, "decoder_sparse_step").value_or(1) != 1 || (dense && dense->is_array() && !dense->empty()))
    return unsupported(
        "some layers have no experts ('decoder_sparse_step', 'mlp_only_layers'), but llama.cpp has them in all");
  return {};
}

/// The place of an expert's matrix in the stack of all of them.
Status add_expert(GgufTensor& stack, const ExpertName& name, const TensorSpec& spec, std::int64_t count) {
  const auto fail = [&](const std::string& problem) {
    return Status(Code::corrupt_data, fmt::format("tensor '{}' {}", spec.name, problem));
  };
  if (name.expert >= count) return fail(fmt::format("is there, but config.json says that there are {} experts", count));
  if (stack.parts.empty()) {
    if (spec.shape.size() != 2) return fail("is no matrix");
    stack.hf_name = name.stack;
    stack.parts.resize(static_cast<std::size_t>(count));
    stack.shape = {count, spec.shape[0], spec.shape[1]};
    stack.source = spec.dtype;
  }
  if (spec.shape.size() != 2 || spec.shape[0] != stack.shape[1] || spec.shape[1] != stack.shape[2])
    return fail("has not the shape of the other experts' matrices");
  if (spec.dtype != stack.source) stack.source = DType::f32;  // holds any of them
  stack.parts[static_cast<std::size_t>(name.expert)] = spec.name;
  return {};
}

/// 135M, 1.2B: at least two digits.
std::string size_label(double count) {
  constexpr std::pair<double, char> units[] = {{1e12, 'T'}, {1e9, 'B'}, {1e6, 'M'}, {1e3, 'K'}};
  for (const auto& [unit, letter] : units) {
    if (count <= unit && letter != 'K') continue;
    return count / unit < 9.5 ? fmt::format("{:.1f}{}", count / unit, letter)
                              : fmt::format("{:.0f}{}", count / unit, letter);
  }
  return {};
}

/// The f32 of a GGUF file as the decimal that was meant: 0.9, not 0.8999999761581421.
double shortest(double stored) {
  const std::string digits = fmt::format("{}", static_cast<float>(stored));
  double out = stored;
  std::from_chars(digits.data(), digits.data() + digits.size(), out);
  return out;
}

class MetadataList {
 public:
  void u32(std::string key, std::optional<std::int64_t> value) {
    if (value) list.emplace_back(std::move(key), static_cast<std::uint32_t>(*value));
  }
  void i32(std::string key, std::optional<std::int64_t> value) {
    if (value) list.emplace_back(std::move(key), static_cast<std::int32_t>(*value));
  }
  void f32(std::string key, std::optional<double> value) {
    if (value) list.emplace_back(std::move(key), static_cast<float>(*value));
  }
  void string(std::string key, std::string value) {
    if (!value.empty()) list.emplace_back(std::move(key), std::move(value));
  }
  GgufMetadata list;
};

/// size_label() of a model, or "8x1.2B": so many experts, and the size that one of them and all else have.
std::string size_label_of(const Json& config, std::int64_t parameters) {
  const auto experts = gguf_experts(config);
  const auto all = static_cast<double>(parameters);
  if (!experts) return size_label(all);
  const double one = 3.0 * static_cast<double>(experts->width) * number(config, "hidden_size").value_or(0) *
                     number(config, "num_hidden_layers").value_or(0);
  return fmt::format("{}x{}", experts->count, size_label(all - static_cast<double>(experts->count - 1) * one));
}

/// What the converter writes of a Phi-3, which goes its own way.
void phi3_metadata(MetadataList& m, const Json& config) {
  m.u32("phi3.context_length", integer(config, "max_position_embeddings"));
  m.u32("phi3.rope.scaling.original_context_length", original_context(config));
  m.u32("phi3.embedding_length", integer(config, "hidden_size"));
  m.u32("phi3.feed_forward_length", integer(config, "intermediate_size"));
  m.u32("phi3.block_count", integer(config, "num_hidden_layers"));
  const auto heads = integer(config, "num_attention_heads");
  m.u32("phi3.attention.head_count", heads);
  m.u32("phi3.attention.head_count_kv", integer(config, "num_key_value_heads").value_or(heads.value_or(0)));
  m.f32("phi3.attention.layer_norm_rms_epsilon", number(config, "rms_norm_eps").value_or(1e-5));
  m.u32("phi3.rope.dimension_count", rotated_of(config));
  const auto theta = number(rope_parameters(config), "rope_theta");
  m.f32("phi3.rope.freq_base", theta ? theta : number(config, "rope_theta").value_or(1e4));
  m.u32("phi3.attention.sliding_window", integer(config, "sliding_window").value_or(0));  // 0: it has none
}

}  // namespace

Result<std::string> gguf_architecture(const Json& config) {
  const std::string type = text(config, "model_type");
  for (const auto& [model_type, architecture] : kArchitectures)
    if (type == model_type) return std::string(architecture);
  return unsupported(fmt::format(
      "model type '{}' cannot be written as GGUF; supported are llama, mistral, qwen2, qwen3, phi3, gemma2, "
      "gemma3_text, mixtral and qwen3_moe",
      type));
}

std::optional<GgufExperts> gguf_experts(const Json& config) {
  const std::string type = text(config, "model_type");
  for (const ExpertFamily& family : kExpertFamilies) {
    if (type != family.model_type) continue;
    auto count = integer(config, "num_local_experts");  // by version of transformers
    if (!count) count = integer(config, "num_experts");
    return GgufExperts{family.dense,
                       family.module,
                       family.gate,
                       family.up,
                       family.down,
                       count.value_or(0),
                       integer(config, "num_experts_per_tok").value_or(0),
                       integer(config, family.width).value_or(0)};
  }
  return std::nullopt;
}

std::string gguf_name(std::string_view architecture, std::string_view hf_name) {
  for (const auto& [hf, gguf] : kGlobalNames)
    if (hf_name == hf) return std::string(gguf);
  const auto parsed = parse_layer_name(hf_name);
  if (!parsed || (parsed->suffix != ".weight" && parsed->suffix != ".bias")) return {};
  for (const BlockName& name : block_names(architecture))
    if (parsed->part == name.hf) return fmt::format("blk.{}.{}{}", parsed->layer, name.gguf, parsed->suffix);
  return {};
}

std::string hf_name(std::string_view architecture, std::string_view gguf_name) {
  for (const auto& [hf, gguf] : kGlobalNames)
    if (gguf_name == gguf) return std::string(hf);
  constexpr std::string_view prefix = "blk.";
  const std::size_t first = gguf_name.find('.', prefix.size()), last = gguf_name.rfind('.');
  if (!gguf_name.starts_with(prefix) || first == std::string_view::npos || last <= first) return {};
  const std::string_view part = gguf_name.substr(first + 1, last - first - 1);
  for (const BlockName& name : block_names(architecture)) {
    if (part != name.gguf) continue;
    std::string found = fmt::format("model.layers.{}.{}{}", gguf_name.substr(prefix.size(), first - prefix.size()),
                                    name.hf, gguf_name.substr(last));
    return fettle::kit::gguf_name(architecture, found) == gguf_name ? found : std::string();
  }
  return {};
}

std::string hf_expert_name(std::string_view stack, std::int64_t expert) {
  constexpr std::string_view experts = ".experts.";
  const std::size_t at = stack.find(experts) + experts.size();
  return fmt::format("{}{}.{}", stack.substr(0, at), expert, stack.substr(at));
}

bool gguf_adds_one(std::string_view architecture, std::string_view hf_name) {
  return is_gemma(architecture) && hf_name.ends_with("norm.weight");
}

bool is_gguf_rope_factors(std::string_view name) {
  return name == "rope_freqs.weight" || name == "rope_factors_long.weight" || name == "rope_factors_short.weight";
}

bool gguf_reorders_rows(std::string_view architecture, std::string_view hf_name) {
  const auto parsed = parse_layer_name(hf_name);
  return architecture == "llama" && parsed &&
         (parsed->part == "self_attn.q_proj" || parsed->part == "self_attn.k_proj");
}

Result<std::vector<GgufTensor>> gguf_tensors(const Json& config, const std::vector<TensorSpec>& checkpoint) {
  FETTLE_ASSIGN(const std::string architecture, gguf_architecture(config));
  if (architecture == "gemma2") FETTLE_TRY(check_gemma2(config));
  if (architecture == "gemma3") FETTLE_TRY(check_gemma3(config));
  if (architecture == "phi3") FETTLE_TRY(check_phi3(config));
  const auto experts = gguf_experts(config);
  if (experts) FETTLE_TRY(check_experts(config, *experts));
  const std::int64_t head_dim = head_dim_of(config, architecture);
  FETTLE_ASSIGN(const std::vector<StoredTensor> stored, join_fused(config, checkpoint));
  std::map<std::string, GgufTensor> stacks;
  std::vector<GgufTensor> tensors;
  for (const auto& [spec, parts] : stored) {
    if (is_no_weight(spec.name) || (spec.name == "lm_head.weight" && is_tied(config, architecture))) continue;
    if (const auto expert = experts ? parse_expert_name(spec.name) : std::nullopt) {
      FETTLE_TRY(add_expert(stacks[expert->stack], *expert, spec, experts->count));
      continue;
    }
    GgufTensor t{gguf_name(architecture, spec.name), spec.name, parts, spec.shape, spec.dtype, 0, false, {}};
    if (t.name.empty())
      return Status(Code::unsupported, fmt::format("tensor '{}' has no name in a GGUF file of architecture '{}'",
                                                   spec.name, architecture));
    if (gguf_reorders_rows(architecture, spec.name)) {
      if (spec.shape.empty() || head_dim < 2 || head_dim % 2 != 0 || spec.shape[0] % head_dim != 0)
        return Status(Code::corrupt_data, fmt::format("tensor '{}' has {} rows, expected whole heads of {}", spec.name,
                                                      spec.shape.empty() ? 0 : spec.shape[0], head_dim));
      t.head_dim = head_dim;
    }
    t.plus_one = gguf_adds_one(architecture, spec.name);
    tensors.push_back(std::move(t));
  }
  for (auto& [name, stack] : stacks) {
    stack.name = gguf_name(architecture, name);
    if (stack.name.empty())
      return Status(Code::unsupported, fmt::format("tensor '{}' has no name in a GGUF file of architecture '{}'",
                                                   stack.parts.front(), architecture));
    for (std::size_t e = 0; e < stack.parts.size(); ++e)
      if (stack.parts[e].empty())
        return Status(Code::corrupt_data,
                      fmt::format("tensor '{}' has no expert {}, but config.json says that there are {}", name, e,
                                  stack.parts.size()));
    tensors.push_back(std::move(stack));
  }
  const auto add_factors = [&](const char* name, std::vector<float> factors) {
    const auto count = static_cast<std::int64_t>(factors.size());
    if (count > 0) tensors.push_back({name, "", {}, {count}, DType::f32, 0, false, std::move(factors)});
  };
  add_factors("rope_freqs.weight", gguf_rope_factors(config));
  if (architecture == "phi3") {
    add_factors("rope_factors_long.weight", long_rope_factors(config, "long_factor"));
    add_factors("rope_factors_short.weight", long_rope_factors(config, "short_factor"));
  }
  std::sort(tensors.begin(), tensors.end(), [](const GgufTensor& a, const GgufTensor& b) {
    return std::make_tuple(layer_of(a.name), std::string_view(a.name)) <
           std::make_tuple(layer_of(b.name), std::string_view(b.name));
  });
  return tensors;
}

std::vector<float> gguf_rope_factors(const Json& config) {
  const Json& rope = rope_parameters(config);
  if (rope_type(rope) != "llama3") return {};
  const auto theta =
      static_cast<float>(number(rope, "rope_theta").value_or(number(config, "rope_theta").value_or(10000)));
  const auto factor = static_cast<float>(number(rope, "factor").value_or(8));
  const auto low = static_cast<float>(number(rope, "low_freq_factor").value_or(1));
  const auto high = static_cast<float>(number(rope, "high_freq_factor").value_or(4));
  const auto original = static_cast<float>(number(rope, "original_max_position_embeddings").value_or(8192));
  const std::int64_t head_dim = head_dim_of(config, "llama");
  std::vector<float> factors;
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float frequency =
        1.0f / static_cast<float>(std::pow(static_cast<double>(theta), static_cast<double>(exponent)));
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
    if (wavelength < original / high) {
      factors.push_back(1);
    } else if (wavelength > original / low) {
      factors.push_back(factor);
    } else {
      const float smooth = (original / wavelength - low) / (high - low);
      factors.push_back(1 / ((1 - smooth) / factor + smooth));
    }
  }
  return factors;
}

Result<GgufMetadata> gguf_model_metadata(const Json& config, const Json& generation, std::int64_t parameters) {
  FETTLE_ASSIGN(const std::string architecture, gguf_architecture(config));
  const bool gemma = architecture == "gemma3", gemma2 = architecture == "gemma2";
  MetadataList m;
  m.string("general.architecture", architecture);
  if (architecture == "phi3" && is_long_rope(config))
    m.f32("phi3.rope.scaling.attn_factor",
          number(rope_parameters(config), "attention_factor").value_or(long_rope_magnitude(config)));
  m.string("general.type", "model");
  m.i32("general.sampling.top_k", integer(generation, "top_k"));
  m.f32("general.sampling.top_p", number(generation, "top_p"));
  m.f32("general.sampling.min_p", number(generation, "min_p"));
  m.f32("general.sampling.temp", number(generation, "temperature"));

  // A folder of the store has no name worth keeping: what the config remembers, or kind and size.
  std::string name = text(config, "_name_or_path");
  while (name.ends_with('/')) name.pop_back();
  name = name.substr(name.rfind('/') + 1);
  m.string("general.name", name.empty() ? fmt::format("{}-{}", architecture, size_label_of(config, parameters)) : name);
  m.string("general.size_label", size_label_of(config, parameters));
  if (architecture == "phi3") {
    phi3_metadata(m, config);
    return std::move(m.list);
  }

  const auto key = [&](std::string_view rest) { return fmt::format("{}.{}", architecture, rest); };
  const auto or_gemma = [&](std::optional<std::int64_t> value, std::int64_t usual) {
    return !value && is_gemma(architecture) ? std::optional(usual) : value;
  };
  if (!gemma2) m.u32(key("block_count"), integer(config, "num_hidden_layers"));
  m.u32(key("context_length"), or_gemma(integer(config, "max_position_embeddings"), gemma2 ? 8192 : 131072));
  m.u32(key("embedding_length"), integer(config, "hidden_size"));
  if (gemma2) m.u32(key("block_count"), integer(config, "num_hidden_layers"));
  m.u32(key("feed_forward_length"), integer(config, "intermediate_size"));
  m.u32(key("attention.head_count"), or_gemma(integer(config, "num_attention_heads"), 8));
  m.u32(key("attention.head_count_kv"), or_gemma(integer(config, "num_key_value_heads"), 4));

  const Json& rope = rope_parameters(config);
  const std::string type = rope_type(rope);
  if (type == "linear" || type == "yarn") {
    m.string(key("rope.scaling.type"), type);
    m.f32(key("rope.scaling.factor"), number(rope, "factor"));
    if (type == "yarn") {
      m.u32(key("rope.scaling.original_context_length"), integer(rope, "original_max_position_embeddings"));
      m.f32(key("rope.scaling.yarn_ext_factor"), number(rope, "extrapolation_factor"));
      const auto attention = number(rope, "attention_factor");
      m.f32(key("rope.scaling.yarn_attn_factor"), attention ? attention : number(rope, "attn_factor"));
      m.f32(key("rope.scaling.yarn_beta_fast"), number(rope, "beta_fast"));
      m.f32(key("rope.scaling.yarn_beta_slow"), number(rope, "beta_slow"));
    }
  } else if (!type.empty() && type != "default" && type != "dynamic" && type != "llama3") {
    return unsupported(fmt::format("rope type '{}' cannot be written as GGUF", type));
  }
  auto theta = number(rope, "rope_theta");
  if (!theta) theta = number(config, "rope_theta");
  if (!gemma2) m.f32(key("rope.freq_base"), !theta && gemma ? std::optional(1e6) : theta);
  if (gemma) {
    auto local = number(config, "rope_local_base_freq");
    const Json* all = find(config, "rope_parameters");
    if (const Json* sliding = all ? find(*all, "sliding_attention") : nullptr; sliding && !local)
      local = number(*sliding, "rope_theta");
    m.f32(key("rope.freq_base_swa"), local);
  }
  const auto epsilon = number(config, "rms_norm_eps");
  m.f32(key("attention.layer_norm_rms_epsilon"), epsilon.value_or(1e-6));
  const auto experts = gguf_experts(config);
  if (experts) {
    m.u32(key("expert_count"), experts->count);
    m.u32(key("expert_used_count"), experts->used);
  }
  const auto dim = or_gemma(integer(config, "head_dim"), 256);
  m.u32(key("attention.key_length"), dim);
  m.u32(key("attention.value_length"), dim);
  if (gemma2) {
    m.f32(key("attn_logit_softcapping"), number(config, "attn_logit_softcapping").value_or(50));
    m.f32(key("final_logit_softcapping"), number(config, "final_logit_softcapping").value_or(30));
  }
  if (gemma) m.f32(key("final_logit_softcapping"), number(config, "final_logit_softcapping"));
  if (is_gemma(architecture)) m.u32(key("attention.sliding_window"), integer(config, "sliding_window"));
  if (architecture == "qwen3moe") m.u32("qwen3moe.expert_feed_forward_length", experts->width);
  if (architecture == "llama") {
    m.u32("llama.vocab_size", integer(config, "vocab_size"));
    m.u32("llama.rope.dimension_count", head_dim_of(config, architecture));
  }
  return std::move(m.list);
}

namespace {

/// The parts of a config.json that only a Phi-3 has.
Status read_phi3(const GgufReader& file, Json& config) {
  const auto head_dim = config["head_dim"].get<std::int64_t>();
  const std::int64_t context = config["max_position_embeddings"].get<std::int64_t>();
  config["original_max_position_embeddings"] = file.integer("phi3.rope.scaling.original_context_length", context);
  config["pad_token_id"] = nullptr;  // transformers would take 32000
  if (const auto id = file.integer("tokenizer.ggml.padding_token_id", -1); id >= 0) config["pad_token_id"] = id;
  config["sliding_window"] = nullptr;
  if (const std::int64_t window = file.integer("phi3.attention.sliding_window", 0); window > 0)
    config["sliding_window"] = window;
  const std::int64_t rotated = file.integer("phi3.rope.dimension_count", head_dim);
  if (rotated != head_dim) config["partial_rotary_factor"] = double(rotated) / double(head_dim);
  if (!file.tensor("rope_factors_long.weight")) return {};
  Json rope{{"rope_type", "longrope"}, {"type", "longrope"}};
  for (const auto& [tensor, name] :
       {std::pair{"rope_factors_short.weight", "short_factor"}, {"rope_factors_long.weight", "long_factor"}}) {
    const TensorView* factors = file.tensor(tensor);
    if (!factors || factors->dtype != DType::f32 || factors->elements() != rotated / 2)
      return {Code::unsupported, fmt::format("{}: tensor '{}' is missing or not f32 with a number a pair, {}",
                                             file.path(), tensor, rotated / 2)};
    std::vector<float> stored(static_cast<std::size_t>(rotated / 2));
    info(DType::f32).to_f32(factors->bytes.data(), stored.data(), stored.size());
    for (const float factor : stored) rope[name].push_back(shortest(static_cast<double>(factor)));
  }
  config["rope_scaling"] = rope;
  // Left to the formula where it gives the same number: older versions of transformers do not know the key.
  const auto magnitude = static_cast<float>(file.real("phi3.rope.scaling.attn_factor", 1));
  if (magnitude != static_cast<float>(long_rope_magnitude(config)))
    config["rope_scaling"]["attention_factor"] = shortest(static_cast<double>(magnitude));
  return {};
}

}  // namespace

Result<Json> config_from_gguf(const GgufReader& file) {
  const std::string architecture = file.text("general.architecture");
  const auto fail = [&](const std::string& problem) {
    return Status(Code::unsupported, fmt::format("{}: {}", file.path(), problem));
  };
  const auto known = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                  [&](const auto& row) { return row.second == architecture; });
  if (known == std::end(kArchitectures))
    return fail(
        fmt::format("architecture '{}' is not supported; supported are llama, qwen2, qwen3, qwen3moe, phi3, gemma2 "
                    "and gemma3",
                    architecture));
  const bool gemma = architecture == "gemma3";
  const auto key = [&](std::string_view rest) { return fmt::format("{}.{}", architecture, rest); };
  const TensorView* embedding = file.tensor("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2) return fail("tensor 'token_embd.weight' is missing or no matrix");

  Json config;
  config["architectures"] = Json::array({architecture == "llama"    ? "LlamaForCausalLM"
                                         : architecture == "qwen2"  ? "Qwen2ForCausalLM"
                                         : architecture == "qwen3"  ? "Qwen3ForCausalLM"
                                         : architecture == "phi3"   ? "Phi3ForCausalLM"
                                         : architecture == "gemma2" ? "Gemma2ForCausalLM"
                                                                    : "Gemma3ForCausalLM"});
  config["model_type"] = std::string(known->first);
  if (const std::int64_t experts = file.integer(key("expert_count"), 0); experts > 0 || architecture == "qwen3moe") {
    if (architecture != "llama" && architecture != "qwen3moe")
      return fail(fmt::format("a mixture of experts of architecture '{}' is not supported", architecture));
    const bool mixtral = architecture == "llama";
    config["architectures"] = Json::array({mixtral ? "MixtralForCausalLM" : "Qwen3MoeForCausalLM"});
    config["model_type"] = mixtral ? "mixtral" : "qwen3_moe";
    config[mixtral ? "num_local_experts" : "num_experts"] = experts;
    config["num_experts_per_tok"] = file.integer(key("expert_used_count"), 0);
    if (!mixtral) {
      config["moe_intermediate_size"] = file.integer(key("expert_feed_forward_length"), 0);
      config["norm_topk_prob"] = true;
      config["decoder_sparse_step"] = 1;
      config["mlp_only_layers"] = Json::array();
    }
    FETTLE_TRY(check_experts(config, *gguf_experts(config)));
  }
  struct Size {
    const char *hf, *gguf;
  };
  constexpr Size sizes[] = {{"num_hidden_layers", "block_count"},
                            {"max_position_embeddings", "context_length"},
                            {"hidden_size", "embedding_length"},
                            {"intermediate_size", "feed_forward_length"},
                            {"num_attention_heads", "attention.head_count"}};
  for (const auto& [hf, gguf] : sizes) {
    const std::int64_t value = file.integer(key(gguf), 0);
    if (value <= 0) return fail(fmt::format("key '{}' is missing or not a positive number", key(gguf)));
    config[hf] = value;
  }
  const auto heads = config["num_attention_heads"].get<std::int64_t>();
  config["num_key_value_heads"] = file.integer(key("attention.head_count_kv"), heads);
  const std::int64_t head_dim =
      file.integer(key("attention.key_length"), config["hidden_size"].get<std::int64_t>() / heads);
  config["head_dim"] = head_dim;
  config["vocab_size"] = embedding->rows();
  config["rms_norm_eps"] = shortest(file.real(key("attention.layer_norm_rms_epsilon"), 1e-6));
  config["tie_word_embeddings"] = file.tensor("output.weight") == nullptr;
  if (architecture == "llama") {
    config["attention_bias"] = file.tensor("blk.0.attn_q.bias") != nullptr;
    config["mlp_bias"] = file.tensor("blk.0.ffn_up.bias") != nullptr;
  }
  const double theta = file.real(key("rope.freq_base"), 10000);
  config["rope_theta"] = theta;
  if (gemma) {
    config["rope_local_base_freq"] = file.real(key("rope.freq_base_swa"), 10000);
    config["query_pre_attn_scalar"] =
        file.integer(key("block_count"), 0) == 62 ? config["hidden_size"].get<std::int64_t>() / heads : head_dim;
    config["final_logit_softcapping"] = nullptr;
    config["attn_logit_softcapping"] = nullptr;
    if (const double cap = file.real(key("final_logit_softcapping"), 0); cap > 0)
      config["final_logit_softcapping"] = cap;
    config["sliding_window"] = file.integer(key("attention.sliding_window"), 4096);
    config["sliding_window_pattern"] = file.integer(key("attention.sliding_window_pattern"), 6);
  }

  if (architecture == "gemma2") {
    config["query_pre_attn_scalar"] =
        file.integer(key("block_count"), 0) == 46 ? config["hidden_size"].get<std::int64_t>() / heads : head_dim;
    config["attn_logit_softcapping"] = file.real(key("attn_logit_softcapping"), 50);
    config["final_logit_softcapping"] = file.real(key("final_logit_softcapping"), 30);
    config["sliding_window"] = file.integer(key("attention.sliding_window"), 4096);
  }

  if (architecture == "phi3") FETTLE_TRY(read_phi3(file, config));
  const std::string scaling = file.text(key("rope.scaling.type"), "none");
  if (scaling == "linear" || scaling == "yarn") {
    Json rope{{"rope_type", scaling}, {"factor", file.real(key("rope.scaling.factor"), 1)}};
    if (scaling == "yarn") {
      rope["original_max_position_embeddings"] = file.integer(key("rope.scaling.original_context_length"), 0);
      for (const char* name : {"beta_fast", "beta_slow"})
        if (const double value = file.real(key(fmt::format("rope.scaling.yarn_{}", name)), 0); value > 0)
          rope[name] = value;
    }
    config["rope_scaling"] = rope;
  } else if (scaling != "none") {
    return fail(fmt::format("rope scaling '{}' is not supported", scaling));
  }
  if (const TensorView* factors = file.tensor("rope_freqs.weight")) {
    // The file holds only the factors. Llama 3 models differ in `factor` and the original context; try those in use.
    if (factors->dtype != DType::f32 || factors->elements() != head_dim / 2)
      return fail("tensor 'rope_freqs.weight' is not f32 with half a head's width");
    std::vector<float> stored(static_cast<std::size_t>(head_dim / 2));
    info(DType::f32).to_f32(factors->bytes.data(), stored.data(), stored.size());
    const float factor = *std::max_element(stored.begin(), stored.end());
    bool found = false;
    for (std::int64_t original = 64; original <= (1 << 24) && !found; original *= 2) {
      config["rope_scaling"] = {{"rope_type", "llama3"},
                                {"factor", factor},
                                {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", original}};
      const auto tried = gguf_rope_factors(config);
      found = std::equal(tried.begin(), tried.end(), stored.begin(),
                         [](float a, float b) { return std::fabs(a - b) <= 1e-4f * b; });
    }
    if (!found) return fail("tensor 'rope_freqs.weight' does not hold the factors of Llama 3 rope scaling");
  }
  config["bos_token_id"] = nullptr;
  config["eos_token_id"] = nullptr;
  for (const char* name : {"bos", "eos"})
    if (const auto id = file.integer(fmt::format("tokenizer.ggml.{}_token_id", name), -1); id >= 0)
      config[fmt::format("{}_token_id", name)] = id;
  return config;
}

Json generation_config_from_gguf(const GgufReader& file) {
  Json out = Json::object();
  for (const auto& [key, name] : {std::pair{"bos", "bos"}, std::pair{"eos", "eos"}, std::pair{"pad", "padding"}})
    if (const auto id = file.integer(fmt::format("tokenizer.ggml.{}_token_id", name), -1); id >= 0)
      out[fmt::format("{}_token_id", key)] = id;
  if (const auto top = file.integer("general.sampling.top_k", -1); top >= 0) out["top_k"] = top;
  for (const auto& [key, name] :
       {std::pair{"top_p", "top_p"}, std::pair{"min_p", "min_p"}, std::pair{"temperature", "temp"}})
    if (const double value = file.real(fmt::format("general.sampling.{}", name), -1); value >= 0)
      out[key] = shortest(value);
  return out;
}

}  // namespace fettle::kit
