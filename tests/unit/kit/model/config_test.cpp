// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

using Json = nlohmann::ordered_json;
using testing::ElementsAre;

Json llama() {
  return Json::parse(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "eos_token_id": 2, "bos_token_id": 1})");
}
Json with(Json config, const std::string& key, Json value) {
  config[key] = std::move(value);
  return config;
}
Json without(Json config, const std::string& key) {
  config.erase(key);
  return config;
}
ModelConfig read(const Json& config) {
  auto result = read_model_config(config, "config.json");
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message());
  return result.ok() ? *std::move(result) : ModelConfig{};
}

TEST(ModelConfig, ReadsLlama) {
  const ModelConfig c = read(llama());
  EXPECT_EQ(c.family->architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_FALSE(c.tied || c.qkv_bias || c.output_bias || c.mlp_bias);
  EXPECT_FLOAT_EQ(c.attention_scale, 0.25f);
  EXPECT_THAT(c.windows, ElementsAre(0, 0, 0));
  EXPECT_THAT(c.eos, ElementsAre(2));
  EXPECT_EQ(c.bos, 1);
  EXPECT_EQ(c.rope.frequencies.size(), 8u);
  EXPECT_FLOAT_EQ(c.rope.frequencies[1], std::pow(10000.0f, -2.0f / 16));
}

TEST(ModelConfig, CountsParameters) {
  // block: q 64*64, k and v 32*64 each, o 64*64, mlp 3*64*160, two norms
  const std::int64_t block = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 160 + 2 * 64;
  EXPECT_EQ(read(llama()).parameters(), 3 * block + 64 + 2 * 320 * 64);
  EXPECT_EQ(read(with(llama(), "tie_word_embeddings", true)).parameters(), 3 * block + 64 + 320 * 64);
}

TEST(ModelConfig, ListsOfEndTokensAreKept) {
  EXPECT_THAT(read(with(llama(), "eos_token_id", {2, 7})).eos, ElementsAre(2, 7));
  EXPECT_THAT(read(with(llama(), "eos_token_id", nullptr)).eos, ElementsAre());
}

TEST(ModelConfig, LlamaBiasKeyCoversTheOutputToo) {
  const ModelConfig c = read(with(llama(), "attention_bias", true));
  EXPECT_TRUE(c.qkv_bias && c.output_bias);
}

TEST(ModelConfig, Qwen2AlwaysHasInputBiases) {
  const ModelConfig c = read(with(llama(), "model_type", "qwen2"));
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.output_bias);
}

TEST(ModelConfig, OldAndNewRopeSpellingsAgree) {
  const Json scaling =
      Json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64})");
  Json renamed = scaling;
  renamed["type"] = renamed["rope_type"];
  renamed.erase("rope_type");
  Json parameters = scaling;
  parameters["rope_theta"] = 10000.0;
  const auto plain = read(llama()).rope.frequencies;
  const auto old_form = read(with(llama(), "rope_scaling", scaling)).rope.frequencies;
  EXPECT_NE(old_form, plain);
  EXPECT_EQ(old_form, read(with(llama(), "rope_scaling", renamed)).rope.frequencies);
  EXPECT_EQ(old_form, read(with(without(llama(), "rope_theta"), "rope_parameters", parameters)).rope.frequencies);
}

TEST(ModelConfig, LinearRopeDividesEveryFrequency) {
  const auto plain = read(llama()).rope.frequencies;
  const auto scaled = read(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 4.0}})).rope.frequencies;
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_FLOAT_EQ(scaled[i], plain[i] / 4);
}

TEST(ModelConfig, YarnKeepsFastPairsStretchesSlowOnesAndRaisesTheMagnitude) {
  const Json yarn{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  const ModelConfig c = read(with(llama(), "rope_scaling", yarn));
  const auto plain = read(llama()).rope.frequencies;
  EXPECT_FLOAT_EQ(c.rope.frequencies.front(), plain.front());
  EXPECT_FLOAT_EQ(c.rope.frequencies.back(), plain.back() / 4);
  EXPECT_FLOAT_EQ(c.rope.magnitude, 0.1f * std::log(4.0f) + 1);
}

TEST(ModelConfig, LongRopeIsReadForTheOriginalContext) {
  Json config = llama();
  config["max_position_embeddings"] = 1024;
  config["original_max_position_embeddings"] = 64;
  config["rope_scaling"] = {
      {"type", "longrope"}, {"short_factor", {1, 1, 1, 1, 2, 2, 2, 4}}, {"long_factor", {2, 2, 2, 2, 8, 8, 8, 16}}};
  const ModelConfig c = read(config);
  const auto plain = read(llama()).rope.frequencies;
  EXPECT_FLOAT_EQ(c.rope.frequencies.front(), plain.front());
  EXPECT_FLOAT_EQ(c.rope.frequencies.back(), plain.back() / 4);
  EXPECT_FLOAT_EQ(c.rope.magnitude, std::sqrt(1 + std::log(16.0f) / std::log(64.0f)));
  EXPECT_EQ(c.context, 64);
  config["rope_scaling"]["attention_factor"] = 1.5;
  EXPECT_FLOAT_EQ(read(config).rope.magnitude, 1.5f);
}

TEST(ModelConfig, MistralWindowCoversEveryLayerUnlessNull) {
  const Json mistral = with(llama(), "model_type", "mistral");
  EXPECT_THAT(read(with(mistral, "sliding_window", 16)).windows, ElementsAre(16, 16, 16));
  EXPECT_THAT(read(with(mistral, "sliding_window", nullptr)).windows, ElementsAre(0, 0, 0));
  EXPECT_THAT(read(mistral).windows, ElementsAre(4096, 4096, 4096));
}

TEST(ModelConfig, Qwen2WindowsStartAtALayerIfSwitchedOn) {
  Json qwen = with(with(with(llama(), "model_type", "qwen2"), "sliding_window", 8), "max_window_layers", 1);
  EXPECT_THAT(read(qwen).windows, ElementsAre(0, 0, 0));
  EXPECT_THAT(read(with(qwen, "use_sliding_window", true)).windows, ElementsAre(0, 8, 8));
}

TEST(ModelConfig, LayerTypesOverrideTheRule) {
  const Json types = {"full_attention", "sliding_attention", "full_attention"};
  const Json mistral = with(with(llama(), "model_type", "mistral"), "sliding_window", 16);
  EXPECT_THAT(read(with(mistral, "layer_types", types)).windows, ElementsAre(0, 16, 0));
}

TEST(ModelConfig, Gemma3OldFormHasTwoRotationsAndEverySixthLayerFull) {
  Json gemma = with(with(llama(), "model_type", "gemma3_text"), "num_hidden_layers", 7);
  gemma["sliding_window"] = 16;
  gemma["rope_local_base_freq"] = 10000.0;
  gemma["rope_theta"] = 1e6;
  gemma["head_dim"] = 16;
  gemma["query_pre_attn_scalar"] = 16;
  const ModelConfig c = read(gemma);
  EXPECT_THAT(c.windows, ElementsAre(16, 16, 16, 16, 16, 0, 16));
  EXPECT_EQ(c.local_rope.frequencies, read(llama()).rope.frequencies);
  EXPECT_EQ(&c.rope_of(0), &c.local_rope);
  EXPECT_EQ(&c.rope_of(5), &c.rope);
  EXPECT_FLOAT_EQ(c.embedding_scale, 8);
  EXPECT_TRUE(c.tied);
}

TEST(ModelConfig, Gemma2HasSoftcapsUnlessNull) {
  const Json gemma = with(with(llama(), "model_type", "gemma2"), "head_dim", 16);
  EXPECT_EQ(read(gemma).attention_softcap, 50);
  EXPECT_EQ(read(gemma).logit_softcap, 30);
  EXPECT_EQ(read(with(gemma, "final_logit_softcapping", nullptr)).logit_softcap, 0);
  EXPECT_THAT(read(gemma).windows, ElementsAre(4096, 0, 4096));
}

/// The same model as transformers 4 and as transformers 5 write it: the keys that differ, beside sizes and names.
struct Spellings {
  const char* name;
  const char* four;
  const char* five;
};

class ModelConfigSpellings : public ::testing::TestWithParam<Spellings> {};

TEST_P(ModelConfigSpellings, MeanTheSame) {
  const auto config = [](const char* keys) {
    Json json = without(llama(), "rope_theta");
    json["num_hidden_layers"] = 8;
    json.update(Json::parse(keys));
    return read(json);
  };
  const ModelConfig four = config(GetParam().four), five = config(GetParam().five);
  EXPECT_EQ(four.family, five.family);
  EXPECT_EQ(four.head_dim, five.head_dim);
  EXPECT_EQ(four.norm_eps, five.norm_eps);
  EXPECT_EQ(four.activation, five.activation);
  EXPECT_EQ(four.tied, five.tied);
  EXPECT_EQ(four.qkv_bias, five.qkv_bias);
  EXPECT_EQ(four.attention_scale, five.attention_scale);
  EXPECT_EQ(four.attention_softcap, five.attention_softcap);
  EXPECT_EQ(four.logit_softcap, five.logit_softcap);
  EXPECT_EQ(four.windows, five.windows);
  EXPECT_EQ(four.rope.frequencies, five.rope.frequencies);
  EXPECT_EQ(four.rope.magnitude, five.rope.magnitude);
  EXPECT_EQ(four.local_rope.frequencies, five.local_rope.frequencies);
  EXPECT_NE(five.rope.frequencies, read(with(llama(), "rope_theta", 3e4)).rope.frequencies) << "read at all";
}

INSTANTIATE_TEST_SUITE_P(
    Families, ModelConfigSpellings,
    ::testing::Values(
        Spellings{"llama",
                  R"({"torch_dtype": "bfloat16", "rope_theta": 500000.0, "rope_scaling": {"factor": 32.0,
                      "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
                      "rope_type": "llama3"}, "pretraining_tp": 1})",
                  R"({"dtype": "bfloat16", "rope_parameters": {"factor": 32.0, "high_freq_factor": 4.0,
                      "low_freq_factor": 1.0, "original_max_position_embeddings": 64, "rope_theta": 500000.0,
                      "rope_type": "llama3"}, "pretraining_tp": 1})"},
        Spellings{"mistral", R"({"model_type": "mistral", "rope_theta": 1000000.0, "sliding_window": 32})",
                  R"({"model_type": "mistral", "head_dim": 16, "rope_parameters": {"rope_theta": 1000000.0,
                      "rope_type": "default"}, "sliding_window": 32})"},
        Spellings{"qwen2",
                  R"({"model_type": "qwen2", "rope_theta": 1000000.0, "use_sliding_window": true, "sliding_window": 32,
                      "max_window_layers": 6})",
                  R"({"model_type": "qwen2", "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
                      "use_sliding_window": true, "sliding_window": 32, "max_window_layers": 6, "layer_types": [
                      "full_attention", "full_attention", "full_attention", "full_attention", "full_attention",
                      "full_attention", "sliding_attention", "sliding_attention"]})"},
        Spellings{"qwen3_yarn",
                  R"({"model_type": "qwen3", "head_dim": 32, "rope_theta": 1000000.0, "rope_scaling": {"type": "yarn",
                      "factor": 4.0, "original_max_position_embeddings": 64}, "sliding_window": null})",
                  R"({"model_type": "qwen3", "head_dim": 32, "rope_parameters": {"rope_type": "yarn", "factor": 4.0,
                      "original_max_position_embeddings": 64, "rope_theta": 1000000.0}, "sliding_window": null})"},
        Spellings{"phi3",
                  R"({"model_type": "phi3", "rope_theta": 20000.0, "rope_scaling": null, "sliding_window": 32,
                      "original_max_position_embeddings": 256})",
                  R"({"model_type": "phi3", "rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": 20000.0,
                      "rope_type": "default"}, "sliding_window": 32, "original_max_position_embeddings": 256})"},
        Spellings{"gemma2",
                  R"({"model_type": "gemma2", "head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "rope_theta": 20000.0,
                      "sliding_window": 32, "cache_implementation": "hybrid"})",
                  R"({"model_type": "gemma2", "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh",
                      "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"}, "sliding_window": 32,
                      "tie_word_embeddings": true, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
                      "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention",
                      "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
                      "use_bidirectional_attention": null})"},
        Spellings{
            "gemma3",
            R"({"model_type": "gemma3_text", "head_dim": 16, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 32,
                      "sliding_window_pattern": 6})",
            R"({"model_type": "gemma3_text", "head_dim": 16, "rope_parameters": {"full_attention": {"factor": 8.0,
                      "rope_theta": 1000000.0, "rope_type": "linear"}, "sliding_attention": {"rope_theta": 10000.0,
                      "rope_type": "default"}}, "sliding_window": 32, "_sliding_window_pattern": 6, "layer_types": [
                      "sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                      "sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]})"}),
    [](const auto& row) { return row.param.name; });

struct BadConfig {
  const char* name;
  Json config;
  std::string message;
};

class ModelConfigErrors : public ::testing::TestWithParam<BadConfig> {};

TEST_P(ModelConfigErrors, NameTheKeyAndTheRemedy) {
  const auto result = read_model_config(GetParam().config, "config.json");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message(), "config.json: " + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Files, ModelConfigErrors,
    ::testing::Values(
        BadConfig{"not_an_object", Json::array(), "not a JSON object"},
        BadConfig{"no_model_type", without(llama(), "model_type"), "'model_type' is missing"},
        BadConfig{"unknown_type", with(llama(), "model_type", "mamba"),
                  "model type 'mamba' is not supported; supported are llama, mistral, qwen2, qwen3, phi3, gemma2, "
                  "gemma3_text"},
        BadConfig{"missing_size", without(llama(), "hidden_size"), "'hidden_size' is missing"},
        BadConfig{"text_size", with(llama(), "hidden_size", "64"),
                  "'hidden_size' is \"64\", expected an integer from 1 to 1048576"},
        BadConfig{"fraction", with(llama(), "num_hidden_layers", 2.5),
                  "'num_hidden_layers' is 2.5, expected an integer from 1 to 16384"},
        BadConfig{"negative", with(llama(), "vocab_size", -1),
                  "'vocab_size' is -1, expected an integer from 1 to 67108864"},
        BadConfig{"huge", with(llama(), "intermediate_size", 18446744073709551615ull),
                  "'intermediate_size' is 18446744073709551615, expected an integer from 1 to 4194304"},
        BadConfig{"heads_do_not_divide", with(llama(), "num_key_value_heads", 3),
                  "'num_attention_heads' is 4, not a multiple of 'num_key_value_heads' 3"},
        BadConfig{"head_width", with(with(llama(), "hidden_size", 62), "num_key_value_heads", 4),
                  "'hidden_size' is 62, not a multiple of 'num_attention_heads' 4, and there is no 'head_dim'"},
        BadConfig{"odd_head", with(llama(), "head_dim", 15), "the heads are 15 wide; rope needs an even width"},
        BadConfig{"activation", with(llama(), "hidden_act", "relu"),
                  "'hidden_act' is 'relu'; supported are silu and gelu_pytorch_tanh"},
        BadConfig{"long_rope", with(llama(), "rope_scaling", {{"rope_type", "longrope"}, {"short_factor", {1, 2}}}),
                  "rope's 'short_factor' is [1,2], expected 8 numbers"},
        BadConfig{"long_rope_number",
                  with(llama(), "rope_scaling", {{"rope_type", "su"}, {"short_factor", {1, 1, 1, 1, 1, 1, 1, 0}}}),
                  "rope's 'short_factor' holds 0, expected positive numbers"},
        BadConfig{
            "rope_type", with(llama(), "rope_scaling", {{"rope_type", "mrope"}}),
            "rope type 'mrope' is not supported; supported are default, linear, dynamic, llama3, yarn and longrope"},
        BadConfig{"rope_type_of_v5",
                  with(llama(), "rope_parameters", {{"rope_type", "proportional"}, {"rope_theta", 1e4}}),
                  "rope type 'proportional' is not supported; supported are default, linear, dynamic, llama3, yarn and "
                  "longrope"},
        BadConfig{
            "rope_type_of_local_layers",
            with(with(with(llama(), "model_type", "gemma3_text"), "head_dim", 16), "rope_parameters",
                 {{"full_attention", {{"rope_type", "default"}}}, {"sliding_attention", {{"rope_type", "mrope"}}}}),
            "rope type 'mrope' is not supported; supported are default, linear, dynamic, llama3, yarn and longrope"},
        BadConfig{"partial_rotation", with(llama(), "partial_rotary_factor", 0.5),
                  "'partial_rotary_factor' is 0.5: that changes what the model computes and is not supported"},
        BadConfig{"partial_rotation_of_v5", with(llama(), "rope_parameters", {{"partial_rotary_factor", 0.75}}),
                  "'partial_rotary_factor' is 0.75; rotating part of a head is not supported"},
        BadConfig{"rope_factor", with(llama(), "rope_scaling", {{"rope_type", "linear"}}), "'factor' is missing"},
        BadConfig{"rope_not_object", with(llama(), "rope_scaling", 3), "'rope_scaling' is 3, expected an object"},
        BadConfig{"theta", with(llama(), "rope_theta", 0), "'rope_theta' is 0, expected a number from 1.0001 to 1e+12"},
        BadConfig{"other_maths", with(llama(), "residual_multiplier", 0.22),
                  "'residual_multiplier' is 0.22: that changes what the model computes and is not supported"},
        BadConfig{"clipping", with(llama(), "clip_qkv", 8.0),
                  "'clip_qkv' is 8.0: that changes what the model computes and is not supported"},
        BadConfig{"scaled_logits", with(llama(), "logit_scale", 0.0625),
                  "'logit_scale' is 0.0625: that changes what the model computes and is not supported"},
        BadConfig{"both_ways", with(with(llama(), "model_type", "gemma2"), "use_bidirectional_attention", true),
                  "'use_bidirectional_attention' is true: that changes what the model computes and is not supported"},
        BadConfig{"softcap_of_a_llama", with(llama(), "attn_logit_softcapping", 50.0),
                  "'attn_logit_softcapping' is 50.0: that changes what the model computes and is not supported"},
        BadConfig{"experts", with(llama(), "num_local_experts", 8),
                  "'num_local_experts' is 8: that changes what the model computes and is not supported"},
        BadConfig{"quantized", with(llama(), "quantization_config", {{"quant_method", "gptq"}}),
                  "the weights are stored in the form of quantization method \"gptq\", which is not supported; start "
                  "from the "
                  "original checkpoint"},
        BadConfig{"eos", with(llama(), "eos_token_id", {2, 320}),
                  "'eos_token_id' is 320, expected a token id below 320"},
        BadConfig{"layer_types", with(with(llama(), "model_type", "qwen3"), "layer_types", {"full_attention"}),
                  "'layer_types' is [\"full_attention\"], expected 3 strings, one a layer"},
        BadConfig{
            "layer_type",
            with(with(llama(), "model_type", "qwen3"), "layer_types", {"full_attention", "linear_attention", 3}),
            "'layer_types' holds \"linear_attention\"; supported are \"full_attention\" and \"sliding_attention\""}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace fettle::kit
