// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/compress/grid.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "plugins/quantize/int8/smooth.h"
#include "unit/kit/compress/tiny_families.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fettle::test {
namespace {

using namespace fettle::kit;

// --- the idea, on vectors ---

TEST(Smoothing, MakesInputsAndWeightsReachEquallyFarAtOneHalf) {
  const std::vector<float> x{100, 0.5F, 3}, w{0.1F, 0.2F, 7};
  const auto s = smooth::scales(x, w, 0.5);
  for (std::size_t j = 0; j < s.size(); ++j) EXPECT_NEAR(x[j] / s[j], w[j] * s[j], 1e-5F * w[j] * s[j]);
}

TEST(Smoothing, MovesAllOfTheOutliersAtOne) {
  EXPECT_EQ(smooth::scales(std::vector<float>{100}, std::vector<float>{0.1F}, 1), std::vector<float>{100});
}

TEST(Smoothing, StaysWithinItsLimitsAndLeavesDeadChannelsAlone) {
  const auto s = smooth::scales(std::vector<float>{1e9F, 0, 1, std::numeric_limits<float>::infinity()},
                                std::vector<float>{1e-9F, 1, 0, 1}, 0.5);
  EXPECT_EQ(s, (std::vector<float>{1e4F, 1, 1, 1}));
}

TEST(Smoothing, TakesTheLargestWeightOfAllMatrices) {
  const std::vector<float> a{1, -5}, b{-2, 3};
  const std::vector<ConstMatrix> both{{a.data(), 1, 2}, {b.data(), 1, 2}};
  EXPECT_EQ(smooth::column_max(both), (std::vector<float>{2, 5}));
}

// --- the plugin ---

constexpr const char* q = "model.layers.2.self_attn.q_proj.weight";

Step int8(const std::string& model = prose_model()) {
  return Step("quantize_int8", "quantize.int8").input("model", "model", model, {{"layout", "hf"}});
}
Step calibrated() { return int8().input("calibration", "tokens", prose_calibration()); }

std::vector<float> dense(const std::string& folder, const char* name) {
  const auto model = DenseCheckpoint::open(folder);
  const DenseTensor& t = *model->find(name);
  std::vector<float> values(static_cast<std::size_t>(t.shape[0] * t.shape[1]));
  DenseCheckpoint::read(t, 0, MutMatrix(values.data(), t.shape[0], t.shape[1]));
  return values;
}

TEST(QuantizeInt8, ReadsBackTheGridsValues) {
  const StepResult r = int8().param("smooth", "none").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const std::vector<float> w = dense(prose_model(), q);
  GridScheme s;
  s.bits = 8;
  s.sharing = Sharing::channel;
  s.scale_type = DType::bf16;
  std::vector<float> expected(w.size());
  round_to_grid(ConstMatrix(w.data(), 256, 256), s).read(0, MutMatrix(expected.data(), 256, 256));
  EXPECT_EQ(dense(r.outputs.at("model"), q), expected);
  EXPECT_LT(r.value("weight_error"), 1e-4);
}

TEST(QuantizeInt8, TellsClientsHowInputsAreRounded) {
  const StepResult dynamic = int8().param("smooth", "none").run();
  const StepResult fixed = calibrated().param("activations", "static").run();
  ASSERT_TRUE(dynamic.ok() && fixed.ok()) << dynamic.message << fixed.message;
  const auto args = [](const StepResult& r) {
    const auto written = Checkpoint::open(r.outputs.at("model"));
    return written->config()["quantization_config"]["config_groups"]["group_0"].dump();
  };
  EXPECT_EQ(args(dynamic),
            R"({"targets":["Linear"],"format":"int-quantized","weights":{"num_bits":8,"type":"int","symmetric":true,)"
            R"("strategy":"channel","dynamic":false},"input_activations":{"num_bits":8,"type":"int","symmetric":true,)"
            R"("strategy":"token","dynamic":true},"output_activations":null})");
  EXPECT_NE(args(fixed).find(R"("strategy":"tensor","dynamic":false},"output)"), std::string::npos) << args(fixed);
  const auto written = Checkpoint::open(fixed.outputs.at("model"));
  ASSERT_NE(written->find("model.layers.2.self_attn.q_proj.input_scale"), nullptr);
  const auto scale = [&](const char* name) {
    const TensorView& t = *written->find(std::string("model.layers.2.self_attn.") + name + ".input_scale");
    float value = 0;
    info(t.dtype).to_f32(t.bytes.data(), &value, 1);
    return value;
  };
  EXPECT_GT(scale("q_proj"), 0);
  EXPECT_EQ(scale("q_proj"), scale("v_proj"));  // they run as one
}

/// One loud input channel in every block: the norm 30 times as large there, the weights behind it as much smaller.
std::string loud_model() {
  Json config = tiny_family("llama");
  return tiny_checkpoint(config, [](Tensors& tensors) {
    for (auto& [name, values] : tensors) {
      if (name.ends_with("input_layernorm.weight") || name.ends_with("post_attention_layernorm.weight"))
        values[3] *= 30;
      for (const char* reader : {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
        if (name.find(reader) != std::string::npos)
          for (std::size_t i = 3; i < values.size(); i += 32) values[i] /= 30;
    }
  });
}

TEST(QuantizeInt8, SmoothingSavesProductsFromALoudChannel) {
  const auto error = [](const char* where) {
    const StepResult r = int8(loud_model())
                             .input("calibration", "tokens", tiny_tokens())
                             .param("smooth", where)
                             .param("held_out", 2)
                             .run();
    EXPECT_TRUE(r.ok()) << r.message;
    double sum = 0;
    for (const auto& [layer, value] : r.series.at("product_error.gate_proj")) sum += value;
    return sum;
  };
  EXPECT_LT(error("norms"), 0.2 * error("none"));
}

TEST(QuantizeInt8, StaticScalesErrMoreThanDynamicOnes) {
  const StepResult dynamic = calibrated().run(), fixed = calibrated().param("activations", "static").run();
  ASSERT_TRUE(dynamic.ok() && fixed.ok()) << dynamic.message << fixed.message;
  EXPECT_GT(fixed.value("product_error"), dynamic.value("product_error"));
  EXPECT_LT(fixed.value("product_error"), 0.01);
}

TEST(QuantizeInt8, HardlyChangesTheModel) {
  const StepResult r = calibrated().run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_NEAR(prose_nll(r.outputs.at("model")), prose_nll(prose_model()), 0.005);  // inputs rounded too
}

TEST(QuantizeInt8, WritesTheSameBytesForAnyThreadCount) {
  const StepResult one = calibrated().param("activations", "static").threads(1).run();
  const StepResult many = calibrated().param("activations", "static").threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("model") + "/model.safetensors"),
            file_bytes(many.outputs.at("model") + "/model.safetensors"));
}

TEST(QuantizeInt8, AsksForTextWhereItIsNeeded) {
  const char* const message =
      "smoothing and static activations need text: connect 'calibration', or use smooth: none with activations: "
      "dynamic";
  EXPECT_EQ(int8().run().message, message);
  EXPECT_EQ(int8().param("smooth", "none").param("activations", "static").run().message, message);
  EXPECT_EQ(int8().estimate().message, message);
}

class Int8Family : public ::testing::TestWithParam<std::string> {};

TEST_P(Int8Family, StaysWhatItWas) {
  const std::string model = tiny_checkpoint(tiny_family(GetParam()));
  const StepResult smoothed = int8(model).input("calibration", "tokens", tiny_tokens()).run();
  const StepResult plain = int8(model).param("smooth", "none").run();
  ASSERT_TRUE(smoothed.ok() && plain.ok()) << smoothed.message << plain.message;
  const auto logits = tiny_logits(model);
  const double rounded = relative_difference(tiny_logits(plain.outputs.at("model")), logits);
  EXPECT_LT(relative_difference(tiny_logits(smoothed.outputs.at("model")), logits), 3 * rounded);
  EXPECT_LT(rounded, 0.2);
}

INSTANTIATE_TEST_SUITE_P(Every, Int8Family,
                         ::testing::Values("llama", "llama-bias", "llama-tied", "mistral", "qwen2", "qwen3", "gemma2",
                                           "gemma3_text"),
                         [](const auto& family) {
                           std::string name = family.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace fettle::test
