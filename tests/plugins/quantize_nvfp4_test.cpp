// SPDX-License-Identifier: Apache-2.0
#include "plugins/floats.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fettle::test {
namespace {

using namespace fettle::kit;

const std::string attention = "model.layers.2.self_attn.", mlp = "model.layers.1.mlp.";
const std::string q = attention + "q_proj", k = attention + "k_proj", v = attention + "v_proj";
const std::string gate = mlp + "gate_proj", up = mlp + "up_proj", down = mlp + "down_proj";

Step nvfp4() { return float_step("quantize.nvfp4"); }

class Nvfp4Scales : public ::testing::TestWithParam<const char*> {};

TEST_P(Nvfp4Scales, ReadBackAsTheGridsValues) {
  const StepResult r = nvfp4().param("scales", GetParam()).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(written.ok()) << written.error().message();
  FloatScheme s;
  s.kind = FloatKind::nvfp4;
  s.block_scale = *find_block_scale(GetParam());
  EXPECT_EQ(values_in(*written, k + ".weight"),
            rounded(k + ".weight", s, {q + ".weight", k + ".weight", v + ".weight"}));
  EXPECT_EQ(values_in(*written, up + ".weight"), rounded(up + ".weight", s, {gate + ".weight", up + ".weight"}));
  EXPECT_EQ(values_in(*written, down + ".weight"), rounded(down + ".weight", s, {down + ".weight"}));
}

TEST_P(Nvfp4Scales, AreNeverZeroOrNan) {
  const StepResult r = nvfp4().param("scales", GetParam()).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  std::uint8_t largest = 0;
  for (const TensorView* t : written->tensors()) {
    if (!t->name.ends_with(".weight_scale")) continue;
    for (const std::byte b : t->bytes) {
      const auto code = static_cast<std::uint8_t>(b);
      ASSERT_TRUE(code > 0 && code < 0x7f) << t->name;
      largest = std::max(largest, code);
    }
  }
  // 448, or room above max / 6 of the largest block: else the tensor's scale is the reciprocal of what it must be.
  EXPECT_GE(largest, to_e4m3(GetParam() == std::string("plain") ? 448.0F : 240.0F));
}

TEST_P(Nvfp4Scales, AreTheSameForAnyThreadCount) {
  const StepResult a = nvfp4().param("scales", GetParam()).threads(1).run();
  const StepResult b = nvfp4().param("scales", GetParam()).threads(5).run();
  ASSERT_TRUE(a.ok() && b.ok()) << a.message << b.message;
  EXPECT_EQ(file_bytes(a.outputs.at("model") + "/model.safetensors"),
            file_bytes(b.outputs.at("model") + "/model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Rows, Nvfp4Scales, ::testing::Values("plain", "four_over_six", "sweep"),
                         [](const auto& row) { return row.param; });

TEST(QuantizeNvfp4, SharesTheTensorsScaleAmongWhatVllmRunsAsOne) {
  const StepResult r = nvfp4().run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const auto scale = [&](const std::string& module) { return number_in(*written, module + ".weight_global_scale"); };
  EXPECT_EQ(scale(q), scale(k));
  EXPECT_EQ(scale(q), scale(v));
  EXPECT_EQ(scale(gate), scale(up));
  EXPECT_NE(scale(gate), scale(down));
  EXPECT_GT(scale(q), 1);  // a divisor
}

TEST(QuantizeNvfp4, ErrsLessThroughABetterChoiceOfScales) {
  double last = 1;
  for (const char* scales : {"plain", "four_over_six", "sweep"}) {
    const StepResult r = nvfp4().param("scales", scales).run();
    ASSERT_TRUE(r.ok()) << r.message;
    EXPECT_LT(r.value("weight_error"), last);
    last = r.value("weight_error");
  }
}

TEST(QuantizeNvfp4, TellsClientsInTheConfig) {
  const StepResult r = nvfp4().run();
  const StepResult both = nvfp4().param("activations", "static").input("calibration", "tokens", prose_tokens(4)).run();
  ASSERT_TRUE(r.ok() && both.ok()) << r.message << both.message;
  const auto group = [](const StepResult& result) {
    const auto written = Checkpoint::open(result.outputs.at("model"));
    EXPECT_EQ(written->config()["quantization_config"]["format"], "nvfp4-pack-quantized");
    return written->config()["quantization_config"]["config_groups"]["group_0"];
  };
  const std::string weights =
      R"({"num_bits":4,"type":"float","symmetric":true,"strategy":"tensor_group","group_size":16,)"
      R"("scale_dtype":"torch.float8_e4m3fn","zp_dtype":"torch.float8_e4m3fn","dynamic":false})";
  EXPECT_EQ(group(r)["weights"].dump(), weights);
  EXPECT_TRUE(group(r)["input_activations"].is_null());
  EXPECT_EQ(group(both)["weights"].dump(), weights);
  EXPECT_EQ(group(both)["input_activations"].dump(),
            R"({"num_bits":4,"type":"float","symmetric":true,"strategy":"tensor_group","group_size":16,)"
            R"("dynamic":"local","scale_dtype":"torch.float8_e4m3fn","zp_dtype":"torch.float8_e4m3fn",)"
            R"("observer":"static_minmax"})");
}

TEST(QuantizeNvfp4, CalibratesADivisorOfInputs) {
  const StepResult r = nvfp4().param("activations", "static").input("calibration", "tokens", prose_tokens(4)).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const float divisor = number_in(*written, q + ".input_global_scale");
  EXPECT_GT(divisor, 1);
  EXPECT_EQ(divisor, number_in(*written, v + ".input_global_scale"));
  const auto dense = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(dense.ok()) << dense.error().message();
  EXPECT_EQ(dense->find(q + ".input_global_scale"), nullptr);  // part of the matrix
}

TEST(QuantizeNvfp4, WritesModelOptsFactorsWhereOthersHaveDivisors) {
  const auto run = [](const char* format) {
    return nvfp4()
        .param("format", format)
        .param("activations", "static")
        .param("propagation", "dense")
        .input("calibration", "tokens", prose_tokens(4))
        .run();
  };
  const StepResult r = run("modelopt"), other = run("compressed-tensors");
  ASSERT_TRUE(r.ok() && other.ok()) << r.message << other.message;
  const auto a = DenseCheckpoint::open(r.outputs.at("model")), b = DenseCheckpoint::open(other.outputs.at("model"));
  ASSERT_TRUE(a.ok() && b.ok()) << a.error().message();
  EXPECT_EQ(a->layout(), "modelopt");
  EXPECT_EQ(number_in(a->stored(), q + ".weight_scale_2"), 1 / number_in(b->stored(), q + ".weight_global_scale"));
  EXPECT_EQ(number_in(a->stored(), q + ".input_scale"), 1 / number_in(b->stored(), q + ".input_global_scale"));
  const auto bytes = [](const DenseCheckpoint& model, const std::string& name) {
    const auto view = model.stored().find(name)->bytes;
    return std::vector<std::byte>(view.begin(), view.end());
  };
  EXPECT_EQ(bytes(*a, q + ".weight"), bytes(*b, q + ".weight_packed"));
  EXPECT_EQ(bytes(*a, q + ".weight_scale"), bytes(*b, q + ".weight_scale"));
  FloatScheme s;
  s.kind = FloatKind::nvfp4;
  s.block_scale = BlockScale::four_over_six;
  s.reciprocal = true;
  EXPECT_EQ(values_in(*a, down + ".weight"), rounded(down + ".weight", s, {down + ".weight"}));
  EXPECT_EQ(a->find(q + ".weight")->inputs.kind, InputGrid::Kind::nvfp4);
  const auto file = read_json_file(r.outputs.at("model") + "/hf_quant_config.json");
  EXPECT_EQ((*file)["quantization"].dump(),
            R"({"quant_algo":"NVFP4","kv_cache_quant_algo":null,"group_size":16,"exclude_modules":["lm_head"]})");
}

// Weights err more, outputs less.
TEST(QuantizeNvfp4, LosesLessOfTheOutputsThroughErrorFeedback) {
  const auto run = [](bool feedback) {
    return nvfp4()
        .input("calibration", "tokens", prose_calibration())
        .param("error_feedback", feedback)
        .param("held_out", 4)
        .param("targets", {"*.self_attn.*_proj.weight"})
        .run();
  };
  const StepResult without = run(false), with = run(true);
  ASSERT_TRUE(without.ok() && with.ok()) << without.message << with.message;
  EXPECT_LT(with.value("reconstruction_error"), 0.85 * without.value("reconstruction_error"));
  EXPECT_EQ(with.value("weight_error"), without.value("weight_error"));  // of rounding to nearest
  // Scales are those of the original weights.
  const auto a = Checkpoint::open(with.outputs.at("model")), b = Checkpoint::open(without.outputs.at("model"));
  for (const TensorView* t : a->tensors())
    if (t->name.ends_with("scale")) {
      const TensorView* other = b->find(t->name);
      EXPECT_TRUE(std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin(), other->bytes.end())) << t->name;
    }
}

TEST(QuantizeNvfp4, FeedsErrorsBackAlikeForAnyThreadCount) {
  const auto run = [](unsigned threads) {
    return nvfp4()
        .input("calibration", "tokens", prose_tokens(16))
        .param("error_feedback", true)
        .param("targets", {"*.self_attn.q_proj.weight", "*.self_attn.k_proj.weight", "*.self_attn.v_proj.weight"})
        .threads(threads)
        .run();
  };
  const StepResult one = run(1), many = run(4);
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("model") + "/model.safetensors"),
            file_bytes(many.outputs.at("model") + "/model.safetensors"));
}

TEST(QuantizeNvfp4, RefusesRowsThatBlocksDoNotDivide) {
  const StepResult r =
      Step("quantize_nvfp4", "quantize.nvfp4").input("model", "model", small_model(40), {{"layout", "hf"}}).run();
  EXPECT_EQ(r.message,
            "tensor 'model.layers.0.mlp.down_proj.weight' has shape [32, 40], but NVFP4 has blocks of 16 weights of a "
            "row; use quantize.fp8 for it, or put it into 'ignore'");
}

TEST(QuantizeNvfp4, RefusesNan) {
  const StepResult r =
      Step("quantize_nvfp4", "quantize.nvfp4")
          .input("model", "model", small_model(64, "model.layers.1.mlp.up_proj.weight"), {{"layout", "hf"}})
          .run();
  EXPECT_EQ(r.message,
            "tensor 'model.layers.1.mlp.up_proj.weight' holds a weight that is NaN or infinite, which no grid holds; "
            "repair the model or put the tensor into 'ignore'");
}

TEST(QuantizeNvfp4, RefusesTooLittleTextForErrorFeedback) {
  const StepResult r = nvfp4().param("error_feedback", true).input("calibration", "tokens", prose_tokens(3)).run();
  EXPECT_EQ(r.message,
            "384 calibration tokens are too few for the 256 inputs of 'model.layers.0.self_attn.q_proj.weight': below "
            "512 rounding to nearest is better; give data.tokens more sequences (16 tokens an input are good)");
}

TEST(QuantizeNvfp4, WarnsOfWhatVllmRunsAsOne) {
  const StepResult r = nvfp4().param("ignore", {"*.layers.0.mlp.up_proj.weight"}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  ASSERT_EQ(r.warnings().size(), 1U);
  EXPECT_EQ(r.warnings()[0],
            "model.layers.0: mlp.gate_proj, mlp.up_proj are stored in different ways; transformers loads that, vLLM "
            "does not");
}

}  // namespace
}  // namespace fettle::test
