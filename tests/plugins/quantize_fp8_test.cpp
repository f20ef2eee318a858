// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/nn/reference.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/floats.h"
#include "plugins/prose.h"
#include "unit/kit/compress/tiny_families.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

namespace fettle::test {
namespace {

using namespace fettle::kit;

const std::string attention = "model.layers.2.self_attn.";
const std::string q = attention + "q_proj.weight", k = attention + "k_proj.weight", v = attention + "v_proj.weight";
const std::string down = "model.layers.1.mlp.down_proj.weight";

Step fp8() { return float_step("quantize.fp8"); }

struct Variant {
  const char* name;
  const char* sharing;
  const char* activations;
  const char* weights;  ///< arguments in the config
  const char* inputs;
};

class Fp8Variant : public ::testing::TestWithParam<Variant> {
 protected:
  static StepResult run(Step step = fp8()) {
    step.param("sharing", GetParam().sharing).param("activations", GetParam().activations);
    if (GetParam().activations == std::string("static")) step.input("calibration", "tokens", prose_tokens(4));
    return step.run();
  }
};

TEST_P(Fp8Variant, ReadsBackTheGridsValues) {
  const StepResult r = run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(written.ok()) << written.error().message();
  FloatScheme s;
  s.sharing = GetParam().sharing == std::string("channel")  ? Fp8Sharing::channel
              : GetParam().sharing == std::string("tensor") ? Fp8Sharing::tensor
                                                            : Fp8Sharing::block;
  s.scale_type = DType::bf16;  // as the model's
  EXPECT_EQ(values_in(*written, q), rounded(q, s, {q, k, v}));
  EXPECT_EQ(values_in(*written, down), rounded(down, s, {down}));
  for (const DenseTensor& t : written->tensors()) EXPECT_EQ(t.name.find("scale"), std::string::npos) << t.name;
}

TEST_P(Fp8Variant, TellsClientsInTheConfig) {
  const StepResult r = run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const Json& config = written->config()["quantization_config"];
  EXPECT_EQ(config["quant_method"], "compressed-tensors");
  EXPECT_EQ(config["format"], "float-quantized");
  EXPECT_EQ(config["ignore"].dump(), R"(["lm_head"])");
  const Json& group = config["config_groups"]["group_0"];
  EXPECT_EQ(group["targets"].dump(), R"(["Linear"])");
  EXPECT_EQ(group["weights"].dump(), GetParam().weights);
  EXPECT_EQ(group["input_activations"].dump(), GetParam().inputs);
}

TEST_P(Fp8Variant, WritesTheSameBytesForAnyThreadCount) {
  Step one = fp8(), many = fp8();
  one.threads(1);
  many.threads(5);
  const StepResult a = run(one), b = run(many);
  ASSERT_TRUE(a.ok() && b.ok()) << a.message << b.message;
  EXPECT_EQ(file_bytes(a.outputs.at("model") + "/model.safetensors"),
            file_bytes(b.outputs.at("model") + "/model.safetensors"));
  EXPECT_EQ(a.series.at("weight_error"), b.series.at("weight_error"));
}

constexpr const char* channel_weights =
    R"({"num_bits":8,"type":"float","symmetric":true,"strategy":"channel","dynamic":false})";
constexpr const char* tensor_arguments =
    R"({"num_bits":8,"type":"float","symmetric":true,"strategy":"tensor","dynamic":false})";
constexpr const char* token_inputs =
    R"({"num_bits":8,"type":"float","symmetric":true,"strategy":"token","dynamic":true})";
INSTANTIATE_TEST_SUITE_P(
    Rows, Fp8Variant,
    ::testing::Values(
        Variant{"channel_dynamic", "channel", "dynamic", channel_weights, token_inputs},
        Variant{"channel_static", "channel", "static", channel_weights, tensor_arguments},
        Variant{"channel_none", "channel", "none", channel_weights, "null"},
        Variant{"tensor_static", "tensor", "static", tensor_arguments, tensor_arguments},
        Variant{"tensor_dynamic", "tensor", "dynamic", tensor_arguments, token_inputs},
        Variant{
            "block_dynamic", "block", "dynamic",
            R"({"num_bits":8,"type":"float","symmetric":true,"strategy":"block","block_structure":[128,128],)"
            R"("dynamic":false})",
            R"({"num_bits":8,"type":"float","symmetric":true,"strategy":"group","group_size":128,"dynamic":true})"}),
    [](const auto& row) { return row.param.name; });

struct ModelOptVariant {
  const char* sharing;
  const char* activations;
  const char* algorithm;
  std::vector<std::int64_t> scale_shape;  ///< of q_proj [256, 256]
  InputGrid::Kind inputs;
};

class Fp8ModelOpt : public ::testing::TestWithParam<ModelOptVariant> {};

TEST_P(Fp8ModelOpt, ReadsBackTheGridsValuesAndSaysSoInBothFiles) {
  const ModelOptVariant& c = GetParam();
  Step step = fp8().param("format", "modelopt").param("sharing", c.sharing).param("activations", c.activations);
  if (c.activations == std::string("static")) step.input("calibration", "tokens", prose_tokens(4));
  const StepResult r = step.run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(written.ok()) << written.error().message();
  EXPECT_EQ(written->layout(), "modelopt");
  FloatScheme s;
  s.sharing = c.sharing == std::string("channel")  ? Fp8Sharing::channel
              : c.sharing == std::string("tensor") ? Fp8Sharing::tensor
                                                   : Fp8Sharing::block;
  EXPECT_EQ(values_in(*written, q), rounded(q, s, {q, k, v}));
  EXPECT_EQ(written->find(q)->inputs.kind, c.inputs);
  const TensorView* const scale = written->stored().find(attention + "q_proj.weight_scale");
  EXPECT_EQ(scale->dtype, DType::f32);
  EXPECT_EQ(scale->shape, c.scale_shape);
  const Json& config = written->stored().config()["quantization_config"];
  EXPECT_EQ(config["quant_method"], "modelopt");
  EXPECT_EQ(config["quant_algo"], c.algorithm);
  EXPECT_EQ(config["ignore"].dump(), R"(["lm_head"])");
  const auto file = read_json_file(r.outputs.at("model") + "/hf_quant_config.json");
  EXPECT_EQ(file->dump(), std::string(R"({"producer":{"name":"modelopt","version":"0.47.0"},"quantization":{)") +
                              R"("quant_algo":")" + c.algorithm +
                              R"(","kv_cache_quant_algo":null,"exclude_modules":["lm_head"]}})");
}

INSTANTIATE_TEST_SUITE_P(
    Rows, Fp8ModelOpt,
    ::testing::Values(ModelOptVariant{"tensor", "static", "FP8", {}, InputGrid::Kind::fp8_fixed},
                      ModelOptVariant{
                          "channel", "dynamic", "FP8_PER_CHANNEL_PER_TOKEN", {256}, InputGrid::Kind::fp8_token},
                      ModelOptVariant{"block", "none", "FP8_PB_WO", {2, 1, 2, 1}, InputGrid::Kind::none}),
    [](const auto& row) { return row.param.algorithm; });

TEST(QuantizeFp8, LeavesTheHeadAndWhatItDoesNotTargetAsTheyAre) {
  const StepResult r = fp8().param("ignore", {down}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const auto original = Checkpoint::open(prose_model());
  for (const std::string& name : {down, std::string("model.embed_tokens.weight"), std::string("model.norm.weight")}) {
    const TensorView *a = written->find(name), *b = original->find(name);
    ASSERT_TRUE(a && b) << name;
    EXPECT_TRUE(std::equal(a->bytes.begin(), a->bytes.end(), b->bytes.begin(), b->bytes.end())) << name;
  }
  EXPECT_EQ(written->config()["quantization_config"]["ignore"].dump(), R"(["model.layers.1.mlp.down_proj","lm_head"])");
  EXPECT_TRUE(std::filesystem::exists(r.outputs.at("model") + "/tokenizer.json"));
}

TEST(QuantizeFp8, GivesMatricesThatReadTheSameOneInputScale) {
  const StepResult r =
      fp8().param("activations", "static").param("held_out", 1).input("calibration", "tokens", prose_tokens(4)).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const float scale = number_in(*written, attention + "q_proj.input_scale");
  EXPECT_GT(scale, 0);
  EXPECT_EQ(scale, number_in(*written, attention + "k_proj.input_scale"));
  EXPECT_EQ(scale, number_in(*written, attention + "v_proj.input_scale"));
  EXPECT_NE(scale, number_in(*written, attention + "o_proj.input_scale"));
  EXPECT_EQ(r.series.at("error.q_proj").size(), 4U);
}

/// Largest magnitudes of a block's keys and values.
struct CacheMagnitudes {
  double keys = 0, values = 0;
};

/// y = x W^T + b, a product after the other.
std::vector<float> plain_linear(const Linear& linear, ConstMatrix x) {
  const StoredMatrix& w = linear.weight;
  std::vector<float> weights(static_cast<std::size_t>(w.rows * w.cols)), y;
  info(w.dtype).to_f32(w.data, weights.data(), weights.size());
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t j = 0; j < w.rows; ++j) {
      double sum = linear.bias.empty() ? 0 : linear.bias[static_cast<std::size_t>(j)];
      for (std::int64_t l = 0; l < w.cols; ++l)
        sum += double{x.data[i * x.cols + l]} * weights[static_cast<std::size_t>(j * w.cols + l)];
      y.push_back(static_cast<float>(sum));
    }
  return y;
}

/// What the dense model caches for the tokens, block by block, with the plain norm and rope.
std::vector<CacheMagnitudes> plain_magnitudes(const std::string& model, const std::string& tokens) {
  const Decoder decoder = *Decoder::open(*Weights::open(model));
  const TokenSet set = *TokenSet::open(tokens);
  const ModelConfig& c = decoder.config();
  const Decoder::Positions at = decoder.positions(0, set.length());
  std::vector<CacheMagnitudes> all(static_cast<std::size_t>(c.layers));
  const auto largest = [](double so_far, const std::vector<float>& x) {
    for (const float value : x) so_far = std::max(so_far, std::abs(double{value}));
    return so_far;
  };
  for (std::int64_t s = 0; s < set.sequences(); ++s) {
    Rows x(set.length(), c.hidden);
    EXPECT_TRUE(decoder
                    .embed(x, set.ids().subspan(static_cast<std::size_t>(s * set.length()),
                                                static_cast<std::size_t>(set.length())))
                    .ok());
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      const BlockWeights& w = decoder.block_weights(layer);
      const auto look = [&](Site site, ConstMatrix h) {
        if (site != Site::attention_in) return;
        std::vector<float> k = plain_linear(w.k, h);
        const MutMatrix heads(k.data(), h.rows * c.kv_heads, c.head_dim);
        if (!w.k_norm.empty()) reference::rms_norm(heads, heads, w.k_norm, c.norm_eps);
        const bool local = c.windows[static_cast<std::size_t>(layer)] > 0 && at.local.pairs > 0;
        reference::rotate_heads({k.data(), h.rows, c.kv_heads * c.head_dim}, local ? at.local : at.full, h.rows);
        CacheMagnitudes& magnitudes = all[static_cast<std::size_t>(layer)];
        magnitudes = {largest(magnitudes.keys, k), largest(magnitudes.values, plain_linear(w.v, h))};
      };
      decoder.block(x, layer, w, {1, set.length()}, at, nullptr, look);
    }
  }
  return all;
}

Step with_fp8_cache(const std::string& technique = "quantize.fp8") {
  return float_step(technique).param("kv_cache", "fp8").input("calibration", "tokens", prose_tokens(4));
}

class Fp8Cache : public ::testing::TestWithParam<std::string> {};

TEST_P(Fp8Cache, HasTheLargestKeysAndValuesOfEveryBlockAsScales) {
  const std::string model = tiny_checkpoint(tiny_family(GetParam())), tokens = tiny_tokens();
  const StepResult r = Step("quantize_fp8", "quantize.fp8")
                           .input("model", "model", model, {{"layout", "hf"}})
                           .input("calibration", "tokens", tokens)
                           .param("kv_cache", "fp8")
                           .param("propagation", "dense")
                           .param("held_out", 0)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const std::vector<CacheMagnitudes> expected = plain_magnitudes(model, tokens);
  for (std::size_t layer = 0; layer < expected.size(); ++layer) {
    const std::string at = fmt::format("model.layers.{}.self_attn.", layer);
    EXPECT_NEAR(number_in(*written, at + "k_scale") * 448 / expected[layer].keys, 1, 1e-5) << layer;
    EXPECT_NEAR(number_in(*written, at + "v_scale") * 448 / expected[layer].values, 1, 1e-5) << layer;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Fp8Cache,
                         ::testing::Values("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"),
                         [](const auto& family) { return family.param; });

TEST(QuantizeFp8, AddsNothingButScalesForTheCache) {
  const StepResult with = with_fp8_cache().run(), without = with_fp8_cache().param("kv_cache", "none").run();
  ASSERT_TRUE(with.ok() && without.ok()) << with.message << without.message;
  const auto a = Checkpoint::open(with.outputs.at("model")), b = Checkpoint::open(without.outputs.at("model"));
  EXPECT_EQ(a->tensors().size(), b->tensors().size() + 8);
  for (const TensorView* t : b->tensors()) {
    const TensorView* const same = a->find(t->name);
    ASSERT_TRUE(same) << t->name;
    EXPECT_TRUE(std::equal(t->bytes.begin(), t->bytes.end(), same->bytes.begin(), same->bytes.end())) << t->name;
  }
  for (const char* scale : {"k_scale", "v_scale"}) {
    const TensorView* const t = a->find(attention + scale);
    ASSERT_TRUE(t) << scale;
    EXPECT_EQ(t->dtype, DType::f32);
    EXPECT_EQ(t->shape, std::vector<std::int64_t>{1});
  }
  EXPECT_EQ(a->config()["quantization_config"]["kv_cache_scheme"].dump(), tensor_arguments);
  EXPECT_EQ(b->config()["quantization_config"]["kv_cache_scheme"].dump(), "null");
  const auto read = DenseCheckpoint::open(with.outputs.at("model"));
  for (const DenseTensor& t : read->tensors()) EXPECT_EQ(t.name.find("scale"), std::string::npos) << t.name;
}

TEST(QuantizeFp8, WritesTheSameCacheScalesForAnyThreadCountAndOrder) {
  const StepResult one = with_fp8_cache().threads(1).run(), many = with_fp8_cache().threads(5).run(),
                   sequential = with_fp8_cache().param("true_sequential", true).run();
  ASSERT_TRUE(one.ok() && many.ok() && sequential.ok()) << one.message << many.message << sequential.message;
  const std::string bytes = file_bytes(one.outputs.at("model") + "/model.safetensors");
  EXPECT_EQ(bytes, file_bytes(many.outputs.at("model") + "/model.safetensors"));
  EXPECT_EQ(bytes, file_bytes(sequential.outputs.at("model") + "/model.safetensors"));
}

TEST(QuantizeFp8, KeepsCacheScalesWhereModelOptDoes) {
  const StepResult r = with_fp8_cache().param("format", "modelopt").run(), compressed = with_fp8_cache().run();
  ASSERT_TRUE(r.ok() && compressed.ok()) << r.message << compressed.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  EXPECT_EQ(written->find(attention + "k_proj.k_scale")->dtype, DType::f32);
  const auto other = Checkpoint::open(compressed.outputs.at("model"));
  EXPECT_EQ(number_in(*written, "model.layers.0.self_attn.k_proj.k_scale"),
            number_in(*other, "model.layers.0.self_attn.k_scale"));
  EXPECT_EQ(number_in(*written, "model.layers.0.self_attn.v_proj.v_scale"),
            number_in(*other, "model.layers.0.self_attn.v_scale"));
  EXPECT_EQ(written->config()["quantization_config"]["kv_cache_scheme"].dump(),
            R"({"dynamic":false,"num_bits":8,"type":"float"})");
  const auto file = read_json_file(r.outputs.at("model") + "/hf_quant_config.json");
  EXPECT_EQ((*file)["quantization"]["kv_cache_quant_algo"], "FP8");
  const auto read = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(read.ok()) << read.error().message();
  for (const DenseTensor& t : read->tensors()) EXPECT_EQ(t.name.find("scale"), std::string::npos) << t.name;
}

/// What the dense model caches has nothing to do with the grid of the weights.
TEST(QuantizeFp8, SharesItsCacheScalesWithTheOtherFloats) {
  const StepResult r = with_fp8_cache().param("propagation", "dense").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  for (const char* technique : {"quantize.nvfp4", "quantize.mxfp4"}) {
    const StepResult s = with_fp8_cache(technique).param("propagation", "dense").run();
    ASSERT_TRUE(s.ok()) << s.message;
    const auto other = Checkpoint::open(s.outputs.at("model"));
    for (const char* scale : {"k_scale", "v_scale"})
      EXPECT_EQ(number_in(*written, attention + scale), number_in(*other, attention + scale)) << technique;
    EXPECT_EQ(other->config()["quantization_config"]["kv_cache_scheme"].dump(), tensor_arguments);
  }
}

TEST(QuantizeFp8, RefusesCacheScalesWithoutTheirProjection) {
  EXPECT_EQ(
      with_fp8_cache().param("ignore", {v}).run().message,
      "kv_cache: fp8 stores its scales with every k_proj and v_proj, but 'model.layers.2.self_attn.v_proj.weight' "
      "is not quantized; widen 'targets' or narrow 'ignore', or use kv_cache: none");
}

TEST(QuantizeFp8, RefusesKeysAndValuesWithoutEnd) {
  for (const auto& [module, what] : {std::pair("k_proj", "keys"), std::pair("v_proj", "values")}) {
    const std::string name = fmt::format("model.layers.0.self_attn.{}", module);
    const std::string model = tiny_checkpoint(tiny_family("qwen2"), [&](Tensors& tensors) {
      tensors.at(name + ".bias")[3] = std::numeric_limits<float>::infinity();
    });
    const StepResult r = Step("quantize_fp8", "quantize.fp8")
                             .input("model", "model", model, {{"layout", "hf"}})
                             .input("calibration", "tokens", tiny_tokens())
                             .param("kv_cache", "fp8")
                             .run();
    EXPECT_EQ(r.message, fmt::format("the {} that '{}.weight' makes reach NaN or infinity on the calibration text; "
                                     "check the model, or use kv_cache: none",
                                     what, name));
  }
}

/// Relative squared error of E4M3 on Gaussian weights is 7.1e-4 without error of scales, which FP8 hardly feels.
TEST(QuantizeFp8, ErrsAsTheoryExpects) {
  const StepResult r = fp8().run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_NEAR(r.value("weight_error"), 7.1e-4, 0.5e-4);
  EXPECT_EQ(r.value("matrices"), 28);
  EXPECT_EQ(r.series.at("weight_error").size(), 28U);
}

struct Refusal {
  const char* name;
  nlohmann::ordered_json params;
  const char* message;
};

class Fp8Refusal : public ::testing::TestWithParam<Refusal> {};

TEST_P(Fp8Refusal, SaysWhatToDo) {
  Step step = fp8();
  for (const auto& [key, value] : GetParam().params.items()) step.param(key, value);
  const StepResult checked = step.validate();
  EXPECT_EQ((checked.ok() ? step.run() : checked).message, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, Fp8Refusal,
    ::testing::Values(
        Refusal{"static_without_text",
                {{"activations", "static"}},
                "activations: static needs calibration text: connect the port 'calibration' to a data.tokens step"},
        Refusal{"feedback_without_text",
                {{"error_feedback", true}},
                "error_feedback needs calibration text: connect the port 'calibration' to a data.tokens step"},
        Refusal{"cache_without_text",
                {{"kv_cache", "fp8"}},
                "kv_cache: fp8 needs calibration text: connect the port 'calibration' to a data.tokens step"},
        Refusal{"static_blocks",
                {{"sharing", "block"}, {"activations", "static"}},
                "vLLM 0.20 multiplies blocks of 128 x 128 by activations with scales of their own; use activations: "
                "dynamic, or sharing: channel"},
        Refusal{"modelopt_matrix",
                {{"sharing", "tensor"}, {"format", "modelopt"}},
                "ModelOpt 0.47 has sharing: tensor only with activations: static; use that, or format: "
                "compressed-tensors"},
        Refusal{"modelopt_rows",
                {{"activations", "none"}, {"format", "modelopt"}},
                "ModelOpt 0.47 has sharing: channel only with activations: dynamic; use that, or format: "
                "compressed-tensors"},
        Refusal{"modelopt_blocks",
                {{"sharing", "block"}, {"format", "modelopt"}},
                "ModelOpt 0.47 has sharing: block only with activations: none; use that, or format: "
                "compressed-tensors"}),
    [](const auto& row) { return row.param.name; });

TEST(QuantizeFp8, MissesItsCalibrationWhilePlanning) {
  EXPECT_EQ(fp8().param("activations", "static").estimate().message,
            "activations: static needs calibration text: connect the port 'calibration' to a data.tokens step");
  EXPECT_EQ(fp8().param("kv_cache", "fp8").estimate().message,
            "kv_cache: fp8 needs calibration text: connect the port 'calibration' to a data.tokens step");
  EXPECT_TRUE(fp8().estimate().ok());
}

TEST(QuantizeFp8, RefusesBlocksThatDoNotDivide) {
  const StepResult r = Step("quantize_fp8", "quantize.fp8")
                           .input("model", "model", small_model(64), {{"layout", "hf"}})
                           .param("sharing", "block")
                           .run();
  EXPECT_EQ(r.message,
            "tensor 'model.layers.0.mlp.down_proj.weight' has shape [32, 64], but vLLM wants multiples of 128 for "
            "sharing: block; use sharing: channel, or put it into 'ignore'");
}

TEST(QuantizeFp8, RefusesNan) {
  for (const char* sharing : {"channel", "tensor"}) {
    const StepResult r =
        Step("quantize_fp8", "quantize.fp8")
            .input("model", "model", small_model(64, "model.layers.1.mlp.up_proj.weight"), {{"layout", "hf"}})
            .param("sharing", sharing)
            .run();
    EXPECT_EQ(r.message,
              "tensor 'model.layers.1.mlp.up_proj.weight' holds a weight that is NaN or infinite, which no grid holds; "
              "repair the model or put the tensor into 'ignore'");
  }
}

}  // namespace
}  // namespace fettle::test
