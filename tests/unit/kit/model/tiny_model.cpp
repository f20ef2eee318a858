// SPDX-License-Identifier: Apache-2.0
#include "unit/kit/model/tiny_model.h"

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/model/config.h"

#include <fmt/format.h>

#include <random>
#include <span>

namespace fettle::test {
namespace {

using kit::DType;
using kit::Json;
using kit::TensorSpec;

/// FNV-1a: std::hash may differ from one standard library to the next.
std::uint32_t hash(const std::string& text) {
  std::uint32_t h = 2166136261u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 16777619u;
  return h;
}

std::vector<float> random_values(const TensorSpec& spec, std::uint32_t seed) {
  std::mt19937 random(hash(spec.name) ^ seed);
  std::int64_t n = 1;
  for (const std::int64_t d : spec.shape) n *= d;
  const bool norm = spec.name.ends_with("norm.weight");
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i) {
    const float uniform = static_cast<float>(random() >> 8) / 8388608.0f - 1.0f;  // [-1, 1), the same everywhere
    values.push_back(norm ? 1.0f + 0.2f * uniform : 0.4f * uniform);
  }
  return values;
}

}  // namespace

Json tiny_llama_config() {
  return Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "vocab_size": 48, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": false, "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 1})");
}

std::vector<TensorSpec> tiny_tensors(const Json& config) {
  const auto c = kit::read_model_config(config, "tiny");
  if (!c.ok()) return {};
  const std::int64_t width = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  std::vector<TensorSpec> specs{{"model.embed_tokens.weight", DType::f32, {c->vocab, c->hidden}},
                                {"model.norm.weight", DType::f32, {c->hidden}}};
  if (!c->tied) specs.push_back({"lm_head.weight", DType::f32, {c->vocab, c->hidden}});
  for (std::int64_t i = 0; i < c->layers; ++i) {
    const std::string at = fmt::format("model.layers.{}.", i);
    specs.push_back({at + "self_attn.q_proj.weight", DType::f32, {width, c->hidden}});
    specs.push_back({at + "self_attn.k_proj.weight", DType::f32, {kv, c->hidden}});
    specs.push_back({at + "self_attn.v_proj.weight", DType::f32, {kv, c->hidden}});
    specs.push_back({at + "self_attn.o_proj.weight", DType::f32, {c->hidden, width}});
    specs.push_back({at + "mlp.gate_proj.weight", DType::f32, {c->intermediate, c->hidden}});
    specs.push_back({at + "mlp.up_proj.weight", DType::f32, {c->intermediate, c->hidden}});
    specs.push_back({at + "mlp.down_proj.weight", DType::f32, {c->hidden, c->intermediate}});
    specs.push_back({at + "input_layernorm.weight", DType::f32, {c->hidden}});
    specs.push_back({at + "post_attention_layernorm.weight", DType::f32, {c->hidden}});
  }
  return specs;
}

Status write_tiny_model(const std::string& folder, const Json& config, std::vector<TensorSpec> tensors,
                        std::uint32_t seed) {
  return kit::write_checkpoint(
      folder, config, std::move(tensors),
      [seed](const TensorSpec& spec, const kit::TensorSink& sink) {
        const std::vector<float> values = random_values(spec, seed);
        return sink(std::as_bytes(std::span(values)));
      },
      "");
}

}  // namespace fettle::test
