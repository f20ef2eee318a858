// SPDX-License-Identifier: Apache-2.0
#include "unit/kit/compress/tiny_families.h"

#include "fettle_kit/model/decoder.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"
#include "unit/kit/model/tiny_model.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

namespace fettle::test {
namespace {

using namespace fettle::kit;

/// What tiny_tensors() leaves out of a config's tensors.
std::vector<TensorSpec> family_tensors(const Json& config) {
  std::vector<TensorSpec> specs = tiny_tensors(config);
  const auto c = read_model_config(config, "tiny");
  if (!c.ok()) return {};
  const std::int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  for (std::int64_t i = 0; i < c->layers; ++i) {
    const std::string at = fmt::format("model.layers.{}.", i);
    const auto add = [&](bool wanted, const char* name, std::int64_t size) {
      if (wanted) specs.push_back({at + name, DType::f32, {size}});
    };
    add(c->qkv_bias, "self_attn.q_proj.bias", q);
    add(c->qkv_bias, "self_attn.k_proj.bias", kv);
    add(c->qkv_bias, "self_attn.v_proj.bias", kv);
    add(c->output_bias, "self_attn.o_proj.bias", c->hidden);
    add(c->mlp_bias, "mlp.gate_proj.bias", c->intermediate);
    add(c->mlp_bias, "mlp.up_proj.bias", c->intermediate);
    add(c->mlp_bias, "mlp.down_proj.bias", c->hidden);
    add(c->family->qk_norm, "self_attn.q_norm.weight", c->head_dim);
    add(c->family->qk_norm, "self_attn.k_norm.weight", c->head_dim);
    add(c->family->sandwich_norms, "pre_feedforward_layernorm.weight", c->hidden);
    add(c->family->sandwich_norms, "post_feedforward_layernorm.weight", c->hidden);
  }
  return specs;
}

}  // namespace

std::vector<std::string> tiny_family_names() {
  return {"llama", "llama-bias", "llama-tied", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"};
}

Json tiny_family(const std::string& name) {
  Json config = tiny_llama_config();
  config["num_hidden_layers"] = 4;
  config["rms_norm_eps"] = 1e-12;  // so that the mean over fewer channels differs by the count alone
  if (name == "llama-bias") config["attention_bias"] = config["mlp_bias"] = true;
  if (name == "llama-tied") config["tie_word_embeddings"] = true;
  if (name.starts_with("llama")) return config;
  config["model_type"] = name;
  if (name == "mistral" || name == "phi3") config["sliding_window"] = 8;
  if (name.starts_with("qwen")) {
    config["use_sliding_window"] = true;
    config["sliding_window"] = 8;
    config["max_window_layers"] = 2;
  }
  if (name == "qwen3") config["attention_bias"] = true;
  if (name.starts_with("gemma")) {
    config.erase("hidden_act");
    config["hidden_activation"] = "gelu_pytorch_tanh";
    config["sliding_window"] = 8;
    config["query_pre_attn_scalar"] = 16;
    config["tie_word_embeddings"] = true;
    if (name == "gemma3_text") config["sliding_window_pattern"] = 3;
  }
  return config;
}

std::string tiny_checkpoint(const Json& config, const std::function<void(Tensors&)>& edit) {
  const std::string plain = temporary_folder();
  const Status made = write_tiny_model(plain, config, family_tensors(config));
  EXPECT_TRUE(made.ok()) << made.message();
  if (!edit) return plain;
  const auto checkpoint = Checkpoint::open(plain);
  EXPECT_TRUE(checkpoint.ok());
  Tensors tensors;
  std::vector<TensorSpec> specs;
  for (const TensorView* t : checkpoint->tensors()) {
    std::vector<float>& values = tensors[t->name];
    values.resize(static_cast<std::size_t>(t->elements()));
    info(t->dtype).to_f32(t->bytes.data(), values.data(), values.size());
    specs.push_back({t->name, t->dtype, t->shape});
  }
  edit(tensors);
  const std::string edited = temporary_folder();
  const Status written = write_checkpoint(
      edited, config, specs,
      [&](const TensorSpec& spec, const TensorSink& sink) {
        return sink(std::as_bytes(std::span(tensors.at(spec.name))));
      },
      "");
  EXPECT_TRUE(written.ok()) << written.message();
  return edited;
}

void zero_rows(std::vector<float>& matrix, std::int64_t cols, const std::vector<std::int64_t>& rows) {
  for (const std::int64_t r : rows) std::fill_n(matrix.begin() + r * cols, cols, 0.0f);
}

void zero_cols(std::vector<float>& matrix, std::int64_t cols, const std::vector<std::int64_t>& wanted) {
  for (std::int64_t row = 0; row < static_cast<std::int64_t>(matrix.size()) / cols; ++row)
    for (const std::int64_t j : wanted) matrix[static_cast<std::size_t>(row * cols + j)] = 0;
}

std::vector<std::int64_t> others(const std::vector<std::int64_t>& kept, std::int64_t count) {
  std::vector<std::int64_t> rest;
  for (std::int64_t i = 0; i < count; ++i)
    if (std::find(kept.begin(), kept.end(), i) == kept.end()) rest.push_back(i);
  return rest;
}

std::vector<float> tiny_logits(const std::string& checkpoint) {
  auto weights = Weights::open(checkpoint);
  if (!weights.ok()) return ADD_FAILURE() << weights.error().message(), std::vector<float>();
  const auto model = Decoder::open(*std::move(weights));
  if (!model.ok()) return ADD_FAILURE() << model.error().message(), std::vector<float>();
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 40; ++i) ids.push_back((i * 7 + i * i / 3) % 48);
  Rows x(40, model->config().hidden), logits(40, 48);
  const Status ran = model->forward(x, ids, {1, 40});
  EXPECT_TRUE(ran.ok()) << ran.message();
  model->logits(logits, x);
  const ConstMatrix all = logits;
  return {all.data, all.data + all.rows * all.cols};
}

double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return std::numeric_limits<double>::infinity();
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    largest = std::max(largest, std::fabs(static_cast<double>(b[i])));
  }
  return difference / largest;
}

std::string tiny_tokens(std::int64_t sequences, std::int64_t length) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < sequences * length; ++i)
    ids.push_back(static_cast<std::int32_t>((i * i * 31 + i * 7) % 47));
  const std::string folder = temporary_folder();
  const Status saved = TokenSet(std::move(ids), length, "sha256:none", false).save(folder);
  EXPECT_TRUE(saved.ok()) << saved.message();
  return folder;
}

}  // namespace fettle::test
