// SPDX-License-Identifier: Apache-2.0
#include "plugins/floats.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>

#include <filesystem>

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
