// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/tensor/philox.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "plugins/quantize/awq/awq.h"
#include "unit/kit/compress/tiny_families.h"

#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fettle::test {
namespace {

using namespace fettle::kit;

// --- the idea, on matrices ---

constexpr std::int64_t rows = 48, cols = 128, tokens = 512;

double deviate(std::uint64_t seed, std::uint64_t index) {  // roughly normal: a sum of twelve uniform ones
  double sum = -6;
  for (std::uint64_t k = 0; k < 12; ++k) sum += philox_uniform(seed, k, index);
  return sum;
}

/// A matrix, inputs, and what AWQ looks at.
struct Layer {
  std::vector<float> w = std::vector<float>(rows * cols), x = std::vector<float>(tokens * cols), mean_abs, gram;

  explicit Layer(float outlier = 1) {
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(deviate(1, i));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(deviate(2, i)) * (i % cols == 5 ? outlier : 1);
    mean_abs.resize(cols);
    Square sums(cols);
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t i = 0; i < cols; ++i) {
        mean_abs[static_cast<std::size_t>(i)] += std::fabs(input(t, i)) / tokens;
        for (std::int64_t j = 0; j <= i; ++j)
          sums(i, j) += static_cast<double>(input(t, i)) * static_cast<double>(input(t, j));
      }
    gram = awq::whole_gram(sums);
  }
  float input(std::int64_t t, std::int64_t j) const { return x[static_cast<std::size_t>(t * cols + j)]; }
  ConstMatrix weights() const { return {w.data(), rows, cols}; }
  ConstMatrix inputs_gram() const { return {gram.data(), cols, cols}; }

  double loss(std::span<const float> scales, const GridScheme& scheme) const {
    std::vector<float> values(w.size());
    const MutMatrix v(values.data(), rows, cols);
    awq::round_scaled(v, weights(), scales, scheme);
    double total = 0;
    for (const double row : awq::row_losses(weights(), v, inputs_gram())) total += row;
    return total;
  }
  awq::Scales search(const GridScheme& scheme, int ratios = 20) const {
    return *awq::search_scales(
        ratios, [&](double ratio) { return awq::scales_at(ratio, mean_abs, {}); },
        [&](std::span<const float> s) -> Result<double> { return loss(s, scheme); });
  }
};

GridScheme scheme(int bits, std::int64_t group, bool symmetric = false) {
  GridScheme s;
  s.bits = bits;
  s.group_size = group;
  s.symmetric = symmetric;
  return s;
}

std::vector<float> ones(std::int64_t n) { return std::vector<float>(static_cast<std::size_t>(n), 1.0F); }

TEST(AwqScales, FollowTheInputsAndLieAroundOne) {
  EXPECT_EQ(awq::scales_at(0.5, std::vector<float>{1, 16}, {}), (std::vector<float>{0.5F, 2}));
  EXPECT_EQ(awq::scales_at(0, std::vector<float>{1, 16}, {}), (std::vector<float>{1, 1}));
}

TEST(AwqScales, AreLessWhereWeightsAreLargeIfAsked) {
  // sqrt(4) / (sqrt(1/4) + 1e-4) beside sqrt(4) / (sqrt(1) + 1e-4): one twice the other
  const auto s = awq::scales_at(0.5, std::vector<float>{4, 4}, std::vector<float>{0.25F, 1});
  EXPECT_NEAR(s[0] / s[1], 2, 1e-3);
  EXPECT_EQ(awq::scales_at(0, std::vector<float>{4, 4}, std::vector<float>{0.25F, 1}), (std::vector<float>{1, 1}));
}

TEST(AwqScales, StayFiniteForChannelsThatNeverSpeak) {
  for (const float s : awq::scales_at(0.95, std::vector<float>{0, 1, 1e30F}, {})) {
    EXPECT_GT(s, 0);
    EXPECT_TRUE(std::isfinite(s));
  }
}

TEST(AwqScales, RelativeWeightsAreMeansOverTheRowsOfAllMatrices) {
  const std::vector<float> a{1, 2, 3, 4}, b{-2, 2, 8, 0};  // one row each, groups of two
  const std::vector<ConstMatrix> both{{a.data(), 1, 4}, {b.data(), 1, 4}};
  const auto mean = awq::relative_weights(both, scheme(4, 2));
  const std::vector<double> expected{(0.5 + 1) / 2, (1.0 + 1) / 2, (0.75 + 1) / 2, (1.0 + 0) / 2};
  for (std::size_t j = 0; j < 4; ++j) EXPECT_NEAR(static_cast<double>(mean[j]), expected[j], 1e-5);
}

TEST(AwqScales, OfOneAreRoundToNearest) {
  const Layer l;
  std::vector<float> values(l.w.size()), expected(l.w.size());
  awq::round_scaled(MutMatrix(values.data(), rows, cols), l.weights(), ones(cols), scheme(4, 32));
  round_to_grid(l.weights(), scheme(4, 32)).read(0, MutMatrix(expected.data(), rows, cols));
  EXPECT_EQ(values, expected);
}

TEST(AwqLoss, IsThatOfTheOutputsOfEachRow) {
  const Layer l;
  std::vector<float> values(l.w.size());
  const MutMatrix v(values.data(), rows, cols);
  awq::round_scaled(v, l.weights(), ones(cols), scheme(3, 64));
  const auto losses = awq::row_losses(l.weights(), v, l.inputs_gram());
  for (std::int64_t i = 0; i < rows; ++i) {
    double naive = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      double moved = 0;
      for (std::int64_t j = 0; j < cols; ++j)
        moved += static_cast<double>(l.input(t, j)) * static_cast<double>(v(i, j) - l.weights()(i, j));
      naive += moved * moved;
    }
    EXPECT_NEAR(losses[static_cast<std::size_t>(i)] / naive, 1, 1e-4);
  }
}

TEST(AwqSearch, TakesTheLeastLossAndTheSmallerOfEqualRatios) {
  const auto scales = [](double ratio) { return std::vector<float>{static_cast<float>(ratio)}; };
  const auto found = awq::search_scales(
      4, scales, [](std::span<const float> s) -> Result<double> { return s[0] == 0.25F || s[0] == 0.75F ? 1.0 : 2.0; });
  EXPECT_EQ(found->ratio, 0.25);
  EXPECT_EQ(found->loss, 1);
  EXPECT_EQ(found->unscaled_loss, 2);
}

TEST(AwqSearch, DoesNotScaleOnLossesThatAreNoNumbers) {
  const auto found = awq::search_scales(
      3, [](double) { return ones(1); },
      [](std::span<const float>) -> Result<double> { return std::numeric_limits<double>::quiet_NaN(); });
  EXPECT_EQ(found->ratio, 0);
}

TEST(AwqSearch, NeverLosesToRoundToNearest) {
  for (const float outlier : {1.0F, 5.0F, 20.0F})
    for (const int bits : {2, 3, 4}) {
      const awq::Scales s = Layer(outlier).search(scheme(bits, 64));
      EXPECT_LE(s.loss, s.unscaled_loss);
      EXPECT_EQ(s.unscaled_loss, Layer(outlier).loss(ones(cols), scheme(bits, 64)));
    }
}

TEST(AwqSearch, ProtectsALoudChannel) {
  const awq::Scales s = Layer(20).search(scheme(4, 128));
  EXPECT_GT(s.ratio, 0);
  EXPECT_LT(s.loss, 0.5 * s.unscaled_loss);
}

/// The description of the reference, token by token.
std::vector<float> clipped_naively(const Layer& l, const GridScheme& s) {
  std::vector<float> clipped = l.w;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t first = 0; first < cols; first += s.group_size) {
      const std::span<const float> group(l.w.data() + i * cols + first, static_cast<std::size_t>(s.group_size));
      float most = 0;
      for (const float w : group) most = std::max(most, std::fabs(w));
      double least = std::numeric_limits<double>::infinity();
      for (int step = 0; step < 10; ++step) {
        std::vector<float> cut(group.begin(), group.end());
        const float limit = most * (1 - static_cast<float>(step) / 20);
        for (float& w : cut) w = std::clamp(w, -limit, limit);
        const Steps steps = fit_steps(cut, s);
        double error = 0;
        for (std::int64_t t = 0; t < tokens; ++t) {
          double moved = 0;
          for (std::size_t j = 0; j < cut.size(); ++j)
            moved += static_cast<double>(l.input(t, first + static_cast<std::int64_t>(j))) *
                     static_cast<double>(steps.scale * level_of(cut[j], steps, s.bits) - group[j]);
          error += moved * moved;
        }
        if (error >= least) continue;
        least = error;
        std::copy(cut.begin(), cut.end(), clipped.begin() + i * cols + first);
      }
    }
  return clipped;
}

TEST(AwqClip, CutsEachGroupAsTheReferenceDoesWhereTheRowGains) {
  const Layer l;
  const GridScheme s = scheme(3, 32);
  std::vector<float> cut = l.w;
  awq::clip(MutMatrix(cut.data(), rows, cols), ones(cols), l.inputs_gram(), s);
  const std::vector<float> naive = clipped_naively(l, s);
  int changed = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto row = [&](const std::vector<float>& of) {
      return std::vector<float>(of.begin() + i * cols, of.begin() + (i + 1) * cols);
    };
    EXPECT_TRUE(row(cut) == row(naive) || row(cut) == row(l.w)) << "row " << i;
    changed += row(cut) != row(l.w);
  }
  EXPECT_GT(changed, rows / 2);
}

TEST(AwqClip, LetsNoRowLose) {
  Layer l(20);
  for (std::int64_t i = 0; i < rows; ++i) l.w[static_cast<std::size_t>(i * cols + i)] *= 6;  // worth cutting
  for (const bool symmetric : {true, false})
    for (const std::int64_t group : {32, 128}) {
      const GridScheme s = scheme(3, group, symmetric);
      const std::vector<float> scales = awq::scales_at(0.5, l.mean_abs, {});
      std::vector<float> w = l.w, before(w.size()), after(w.size());
      for (std::size_t i = 0; i < w.size(); ++i) w[i] *= scales[i % cols];
      awq::round_scaled(MutMatrix(before.data(), rows, cols), l.weights(), scales, s);
      awq::clip(MutMatrix(w.data(), rows, cols), scales, l.inputs_gram(), s);
      round_to_grid(ConstMatrix(w.data(), rows, cols), s).read(0, MutMatrix(after.data(), rows, cols));
      for (std::size_t i = 0; i < after.size(); ++i) after[i] /= scales[i % cols];
      const auto lost = awq::row_losses(l.weights(), ConstMatrix(before.data(), rows, cols), l.inputs_gram());
      const auto kept = awq::row_losses(l.weights(), ConstMatrix(after.data(), rows, cols), l.inputs_gram());
      double total_before = 0, total_after = 0;
      for (std::size_t i = 0; i < lost.size(); ++i) {
        EXPECT_LE(kept[i], lost[i] * (1 + 1e-5));
        total_before += lost[i], total_after += kept[i];
      }
      EXPECT_LT(total_after, 0.9 * total_before);
    }
}

TEST(AwqMatrix, IsTheSameForAnyThreadCount) {
  const auto with_threads = [](int n) {
    tbb::task_arena arena(n);
    return arena.execute([] {
      const Layer l(20);
      const awq::Scales s = l.search(scheme(3, 32));
      std::vector<float> w = l.w;
      for (std::size_t i = 0; i < w.size(); ++i) w[i] *= s.values[i % cols];
      awq::clip(MutMatrix(w.data(), rows, cols), s.values, l.inputs_gram(), scheme(3, 32));
      return w;
    });
  };
  EXPECT_EQ(with_threads(1), with_threads(4));
}

// --- the plugin ---

Step awq_step(const std::string& model = prose_model()) {
  return Step("quantize_awq", "quantize.awq")
      .input("model", "model", model, {{"layout", "hf"}})
      .input("calibration", "tokens", prose_calibration());
}

Step rtn(const std::string& model = prose_model()) {
  return Step("quantize_rtn", "quantize.rtn").input("model", "model", model, {{"layout", "hf"}});
}

std::string weights_of(const StepResult& r) { return file_bytes(r.outputs.at("model") + "/model.safetensors"); }

std::vector<float> dense(const std::string& folder, const std::string& name) {
  const auto model = DenseCheckpoint::open(folder);
  const DenseTensor& t = *model->find(name);
  const std::int64_t width = t.shape.back(), height = t.shape.size() == 2 ? t.shape[0] : 1;
  std::vector<float> values(static_cast<std::size_t>(width * height));
  if (t.shape.size() == 2)
    DenseCheckpoint::read(t, 0, MutMatrix(values.data(), height, width));
  else
    info(t.stored->dtype).to_f32(t.stored->bytes.data(), values.data(), values.size());
  return values;
}

TEST(QuantizeAwq, WithoutScalesAndClippingIsRoundToNearestBitForBit) {
  for (const char* format : {"awq", "compressed-tensors", "gptq_v2"}) {
    const StepResult a = awq_step().param("format", format).param("ratios", 1).param("clip", false).run();
    const StepResult r = rtn().param("format", format).param("symmetric", false).run();
    ASSERT_TRUE(a.ok() && r.ok()) << a.message << r.message;
    EXPECT_EQ(weights_of(a), weights_of(r)) << format;
  }
}

TEST(QuantizeAwq, LosesLessThanRoundToNearestOnUnseenText) {
  const StepResult a = awq_step().param("bits", 3).param("format", "gptq_v2").run();
  const StepResult r = rtn().param("bits", 3).param("format", "gptq_v2").param("symmetric", false).run();
  ASSERT_TRUE(a.ok() && r.ok()) << a.message << r.message;
  const double whole = prose_nll(prose_model());
  EXPECT_LT(prose_nll(a.outputs.at("model")) - whole, 0.9 * (prose_nll(r.outputs.at("model")) - whole));
}

TEST(QuantizeAwq, NoGroupOfMatricesLosesOnTheCalibrationText) {
  const StepResult a = awq_step().param("propagation", "compressed").run();
  ASSERT_TRUE(a.ok()) << a.message;
  int points = 0;
  for (const char* group : {"loss_ratio.qkv", "loss_ratio.o", "loss_ratio.gate_up", "loss_ratio.down"})
    for (const auto& [layer, ratio] : a.series.at(group)) {
      EXPECT_LE(ratio, 1) << group << " of layer " << layer;
      ++points;
    }
  EXPECT_EQ(points, 16);
  EXPECT_LT(a.value("search_loss_ratio"), 1);
  EXPECT_GT(a.value("mean_ratio"), 0);
}

TEST(QuantizeAwq, MovesScalesIntoTheNorms) {
  const StepResult a = awq_step().run();
  ASSERT_TRUE(a.ok()) << a.message;
  const std::string norm = "model.layers.1.input_layernorm.weight";
  EXPECT_NE(dense(a.outputs.at("model"), norm), dense(prose_model(), norm));
}

TEST(QuantizeAwq, LeavesAGroupUnscaledThatHasADenseMatrix) {
  const StepResult a = awq_step().param("ignore", {"*.v_proj.weight"}).param("format", "compressed-tensors").run();
  ASSERT_TRUE(a.ok()) << a.message;
  for (const char* same : {"model.layers.1.input_layernorm.weight", "model.layers.1.self_attn.v_proj.weight"})
    EXPECT_EQ(dense(a.outputs.at("model"), same), dense(prose_model(), same)) << same;
  EXPECT_TRUE(a.series.contains("ratio.gate_up"));
  EXPECT_FALSE(a.series.contains("ratio.qkv"));
  EXPECT_FALSE(a.series.contains("ratio.o"));
}

TEST(QuantizeAwq, ClipsAllButQueriesAndKeys) {
  const StepResult a = awq_step().param("ratios", 1).param("format", "compressed-tensors").run();
  const StepResult r = rtn().param("symmetric", false).run();
  ASSERT_TRUE(a.ok() && r.ok()) << a.message << r.message;
  for (const std::string name : {"q", "k", "v", "o"}) {
    const std::string tensor = "model.layers.2.self_attn." + name + "_proj.weight";
    const bool same = dense(a.outputs.at("model"), tensor) == dense(r.outputs.at("model"), tensor);
    EXPECT_EQ(same, name == "q" || name == "k") << name;
  }
}

TEST(QuantizeAwq, CalibratesOnDenseOrQuantizedBlocks) {
  const StepResult one = awq_step().param("propagation", "dense").run();
  const StepResult other = awq_step().param("propagation", "compressed").run();
  ASSERT_TRUE(one.ok() && other.ok()) << one.message << other.message;
  EXPECT_NE(weights_of(one), weights_of(other));
}

TEST(QuantizeAwq, WritesTheSameBytesForAnyThreadCount) {
  const StepResult one = awq_step().threads(1).run(), many = awq_step().threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(weights_of(one), weights_of(many));
}

TEST(QuantizeAwq, TellsClientsWhatIsInTheFile) {
  const StepResult a = awq_step().param("ignore", {"model.layers.1.mlp.down_proj.weight"}).run();
  ASSERT_TRUE(a.ok()) << a.message;
  const auto written = Checkpoint::open(a.outputs.at("model"));
  EXPECT_EQ(written->config()["quantization_config"].dump(),
            R"({"quant_method":"awq","bits":4,"group_size":128,"zero_point":true,"version":"gemm",)"
            R"("modules_to_not_convert":["model.layers.1.mlp.down_proj","lm_head"]})");
  EXPECT_EQ(written->config()["torch_dtype"], "float16");
  EXPECT_EQ(written->find("model.norm.weight")->dtype, DType::f16);
}

/// Every kind of norm, bias and sharing of heads: wrong folds would move the logits by as much as they are.
class AwqFamily : public ::testing::TestWithParam<std::string> {};

TEST_P(AwqFamily, StaysWhatItWas) {
  Json config = tiny_family(GetParam());
  const std::string model = tiny_checkpoint(config);
  const StepResult a = Step("quantize_awq", "quantize.awq")
                           .input("model", "model", model, {{"layout", "hf"}})
                           .input("calibration", "tokens", tiny_tokens())
                           .param("bits", 8)
                           .param("group_size", 16)
                           .param("format", "compressed-tensors")
                           .run();
  const StepResult r = rtn(model).param("bits", 8).param("group_size", 16).param("symmetric", false).run();
  ASSERT_TRUE(a.ok() && r.ok()) << a.message << r.message;
  EXPECT_GT(a.value("mean_ratio"), 0);
  const auto logits = tiny_logits(model);
  const double rounded = relative_difference(tiny_logits(r.outputs.at("model")), logits);
  EXPECT_LT(relative_difference(tiny_logits(a.outputs.at("model")), logits), 3 * rounded);
  EXPECT_LT(rounded, 0.1);
}

INSTANTIATE_TEST_SUITE_P(Every, AwqFamily,
                         ::testing::Values("llama", "llama-bias", "llama-tied", "mistral", "qwen2", "qwen3", "gemma2",
                                           "gemma3_text"),
                         [](const auto& family) {
                           std::string name = family.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

struct Refusal {
  const char* name;
  const char* param;
  nlohmann::ordered_json value;
  const char* message;
};

class AwqRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(AwqRefuses, WithTheReason) {
  EXPECT_EQ(awq_step().param(GetParam().param, GetParam().value).validate().message, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, AwqRefuses,
    ::testing::Values(Refusal{"bits", "bits", 3, "3 bits: AWQ files hold 4; use format: compressed-tensors or gptq"},
                      Refusal{"bits_for",
                              "bits_for",
                              {{"*.down_proj.weight", 8}},
                              "8 bits: AWQ files hold 4; use format: compressed-tensors or gptq"},
                      Refusal{"tensor", "sharing", "tensor",
                              "one scale for a whole matrix cannot be told in AWQ files; use sharing: channel, or "
                              "format: compressed-tensors"},
                      Refusal{"search", "search", 2.4,
                              "'clip' and 'search' both choose the range; use clip: false with it"}),
    [](const auto& row) { return row.param.name; });

TEST(QuantizeAwq, RefusesOneScaleForAMatrix) {
  EXPECT_EQ(awq_step()
                .param("format", "compressed-tensors")
                .param("symmetric", true)
                .param("sharing", "tensor")
                .validate()
                .message,
            "AWQ scales and clips inside groups or rows; use sharing: group or channel, or quantize.rtn");
}

TEST(QuantizeAwq, RefusesRowsThatDoNotPackByEight) {
  Json config = tiny_family("llama");
  config["intermediate_size"] = 36;
  const StepResult r = Step("quantize_awq", "quantize.awq")
                           .input("model", "model", tiny_checkpoint(config), {{"layout", "hf"}})
                           .input("calibration", "tokens", tiny_tokens())
                           .param("targets", {"*.gate_proj.weight"})
                           .param("group_size", 32)
                           .run();
  EXPECT_EQ(r.message,
            "tensor 'model.layers.0.mlp.gate_proj.weight' has 36 rows, but AWQ files pack them by eight; put it into "
            "'ignore' or use format: compressed-tensors");
}

}  // namespace
}  // namespace fettle::test
