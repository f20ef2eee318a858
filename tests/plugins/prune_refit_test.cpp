// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/io/checkpoint.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "plugins/prune/refit/refit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

/// A layer with correlated inputs, its Gram matrix and a random mask.
struct Layer {
  static constexpr std::int64_t rows = 12, cols = 24, samples = 200;
  std::vector<float> w;
  Square gram{cols};
  Mask mask{rows, cols};

  explicit Layer(unsigned seed) : w(rows * cols) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::vector<double> mix(cols * cols), x(cols), z(cols);
    for (double& m : mix) m = normal(random);
    for (int n = 0; n < samples; ++n) {
      for (double& v : z) v = normal(random);
      for (std::int64_t i = 0; i < cols; ++i) {
        x[static_cast<std::size_t>(i)] = z[static_cast<std::size_t>(i)] * 0.3;
        for (std::int64_t j = 0; j < cols; ++j)
          x[static_cast<std::size_t>(i)] +=
              mix[static_cast<std::size_t>(i * cols + j)] * z[static_cast<std::size_t>(j)];
      }
      for (std::int64_t i = 0; i < cols; ++i)
        for (std::int64_t j = 0; j <= i; ++j)
          gram(i, j) += x[static_cast<std::size_t>(i)] * x[static_cast<std::size_t>(j)];
    }
    for (float& v : w) v = static_cast<float>(normal(random));
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        if (random() % 2) mask.prune(i, j);
  }
  std::vector<float> zeroed() const {
    std::vector<float> z = w;
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        if (!mask.kept(i, j)) z[static_cast<std::size_t>(i * cols + j)] = 0;
    return z;
  }
  refit::Report fit(std::vector<float>& start, int iterations) const {
    return refit::fit({start.data(), rows, cols}, {w.data(), rows, cols}, gram, mask, {iterations, 0.01});
  }
};

/// Solves the masked normal equations of one row in f64 by elimination: the least-squares answer.
std::vector<double> exact_row(const Layer& layer, std::int64_t row) {
  const std::int64_t n = Layer::cols;
  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += layer.gram(i, i) / static_cast<double>(n);
  const auto h = [&](std::int64_t i, std::int64_t j) {
    return layer.gram(std::max(i, j), std::min(i, j)) + (i == j ? 0.01 * mean : 0);
  };
  std::vector<std::int64_t> kept;
  for (std::int64_t j = 0; j < n; ++j)
    if (layer.mask.kept(row, j)) kept.push_back(j);
  const std::size_t k = kept.size();
  std::vector<std::vector<double>> a(k, std::vector<double>(k + 1));
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j < k; ++j) a[i][j] = h(kept[i], kept[j]);
    for (std::int64_t j = 0; j < n; ++j) a[i][k] += h(kept[i], j) * layer.w[static_cast<std::size_t>(row * n + j)];
  }
  for (std::size_t c = 0; c < k; ++c)
    for (std::size_t r = 0; r < k; ++r) {
      if (r == c) continue;
      const double factor = a[r][c] / a[c][c];
      for (std::size_t j = c; j <= k; ++j) a[r][j] -= factor * a[c][j];
    }
  std::vector<double> solution(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < k; ++i) solution[static_cast<std::size_t>(kept[i])] = a[i][k] / a[i][i];
  return solution;
}

TEST(Refit, FindsTheMaskedLeastSquares) {
  const Layer layer(1);
  std::vector<float> w = layer.zeroed();
  layer.fit(w, 200);
  for (std::int64_t i = 0; i < Layer::rows; ++i) {
    const auto expected = exact_row(layer, i);
    for (std::int64_t j = 0; j < Layer::cols; ++j)
      EXPECT_NEAR(w[static_cast<std::size_t>(i * Layer::cols + j)], expected[static_cast<std::size_t>(j)], 2e-3);
  }
}

TEST(Refit, KeepsZerosExact) {
  const Layer layer(2);
  std::vector<float> w = layer.zeroed();
  layer.fit(w, 20);
  for (std::int64_t i = 0; i < Layer::rows; ++i)
    for (std::int64_t j = 0; j < Layer::cols; ++j) {
      if (!layer.mask.kept(i, j)) {
        EXPECT_EQ(w[static_cast<std::size_t>(i * Layer::cols + j)], 0.0F);
      }
    }
}

TEST(Refit, IsNeverWorseThanItsStart) {
  for (const int iterations : {1, 2, 5, 20, 1000}) {
    const Layer layer(3);
    std::vector<float> w = layer.zeroed();
    const refit::Report report = layer.fit(w, iterations);
    EXPECT_LE(report.after, report.before) << iterations;
  }
}

TEST(Refit, LeavesASolutionWhereItIs) {
  const Layer layer(4);
  std::vector<float> once = layer.zeroed();
  const double solved = layer.fit(once, 200).after;
  std::vector<float> twice = once;
  EXPECT_NEAR(layer.fit(twice, 20).after, solved, 1e-4 * solved);
}

TEST(Refit, DoesNotCareForTheScaleOfTheGram) {
  Layer layer(5);
  std::vector<float> a = layer.zeroed(), b = a;
  layer.fit(a, 20);
  for (std::int64_t i = 0; i < Layer::cols; ++i)
    for (std::int64_t j = 0; j <= i; ++j) layer.gram(i, j) *= 0x1p80;  // a power of two: no rounding
  layer.fit(b, 20);
  EXPECT_EQ(a, b);
}

Step prune_refit(const std::string& mask) {
  return Step("prune_refit", "prune.refit")
      .input("model", "model", prose_model(), {{"layout", "hf"}})
      .input("mask", "mask", mask)
      .input("calibration", "tokens", prose_calibration());
}

/// Attention only: its 256 inputs fit the little text that the project carries.
const StepResult& by_magnitude() {
  static const StepResult result = Step("prune_magnitude", "prune.magnitude")
                                       .input("model", "model", prose_model(), {{"layout", "hf"}})
                                       .param("pattern", "2:4")
                                       .param("targets", {"*.self_attn.*_proj.weight"})
                                       .run();
  return result;
}

TEST(PruneRefit, HealsAMaskOnUnseenText) {
  const StepResult r = prune_refit(by_magnitude().outputs.at("mask")).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(r.value("error_ratio"), 0.9);
  EXPECT_LT(prose_nll(r.outputs.at("model")), prose_nll(by_magnitude().outputs.at("model")));
  EXPECT_EQ(file_bytes(r.outputs.at("mask") + "/mask.safetensors"),
            file_bytes(by_magnitude().outputs.at("mask") + "/mask.safetensors"));
}

TEST(PruneRefit, WritesTheSameBytesForAnyThreadCount) {
  const std::string mask = by_magnitude().outputs.at("mask");
  const StepResult one = prune_refit(mask).threads(1).run(), many = prune_refit(mask).threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("model") + "/model.safetensors"),
            file_bytes(many.outputs.at("model") + "/model.safetensors"));
}

TEST(PruneRefit, StartsFromAnotherPrunedModel) {
  const std::string mask = by_magnitude().outputs.at("mask");
  const StepResult first = prune_refit(mask).run();
  const StepResult again = prune_refit(mask).input("start", "model", first.outputs.at("model")).run();
  ASSERT_TRUE(again.ok()) << again.message;
  EXPECT_GT(again.value("error_ratio"), 0.99);  // there is little left to gain
}

// SparseGPT's weights are a good start; on its mask and its tokens the fit can only gain.
TEST(PruneRefit, IsNeverWorseThanSparseGptOnItsMask) {
  const StepResult swept = Step("prune_sparsegpt", "prune.sparsegpt")
                               .input("model", "model", prose_model(), {{"layout", "hf"}})
                               .input("calibration", "tokens", prose_calibration())
                               .param("targets", {"*.self_attn.*_proj.weight"})
                               .param("pattern", "2:4")
                               .run();
  ASSERT_TRUE(swept.ok()) << swept.message;
  const StepResult r = prune_refit(swept.outputs.at("mask")).input("start", "model", swept.outputs.at("model")).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LE(r.value("error_ratio"), 1);
}

TEST(PruneRefit, LeavesAModelOfWhichAMaskKeepsAllBitForBit) {
  const StepResult nothing = Step("prune_magnitude", "prune.magnitude")
                                 .input("model", "model", prose_model(), {{"layout", "hf"}})
                                 .param("share", 0.0)
                                 .param("targets", {"*.self_attn.*_proj.weight"})
                                 .run();
  const StepResult r = prune_refit(nothing.outputs.at("mask")).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Checkpoint::open(prose_model()), after = Checkpoint::open(r.outputs.at("model"));
  for (const TensorView* t : before->tensors()) {
    const TensorView* const other = after->find(t->name);
    ASSERT_TRUE(other != nullptr && std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin())) << t->name;
  }
}

TEST(PruneRefit, RefusesAQuantizedModel) {
  const StepResult quantized =
      Step("quantize_rtn", "quantize.rtn").input("model", "model", prose_model(), {{"layout", "hf"}}).run();
  ASSERT_TRUE(quantized.ok()) << quantized.message;
  const StepResult r = Step("prune_refit", "prune.refit")
                           .input("model", "model", quantized.outputs.at("model"), {{"layout", "hf"}})
                           .input("mask", "mask", by_magnitude().outputs.at("mask"))
                           .input("calibration", "tokens", prose_calibration())
                           .run();
  EXPECT_EQ(r.message,
            "the weights are quantized already, and packed codes cannot be pruned; prune the original checkpoint, then "
            "quantize the result");
}

TEST(PruneRefit, RefusesTheMaskOfAnotherModel) {
  const std::string folder = temporary_folder();
  auto writer = MaskWriter::create(folder, {{"model.layers.0.self_attn.q_proj.weight", 8, 8}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->add("model.layers.0.self_attn.q_proj.weight", Mask(8, 8)).ok());
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_EQ(prune_refit(folder).run().message,
            "the mask of 'model.layers.0.self_attn.q_proj.weight' is [8, 8], but the model's tensor is [256, 256]; the "
            "mask was made for another model");
}

TEST(PruneRefit, NeedsTwoTokensAnInput) {
  const StepResult r = Step("prune_refit", "prune.refit")
                           .input("model", "model", prose_model(), {{"layout", "hf"}})
                           .input("mask", "mask", by_magnitude().outputs.at("mask"))
                           .input("calibration", "tokens", prose_tokens(3))
                           .run();
  EXPECT_EQ(r.message,
            "384 calibration tokens are too few for the 256 inputs of 'model.layers.0.self_attn.k_proj.weight': below "
            "512 the update is worse than none; give data.tokens more sequences (16 tokens an input are good)");
}

TEST(PruneRefit, WarnsBelowSixteenTokensAnInput) {
  const StepResult r = prune_refit(by_magnitude().outputs.at("mask")).run();
  EXPECT_EQ(r.warnings(),
            std::vector<std::string>{
                std::to_string(static_cast<int>(r.value("calibration_tokens"))) +
                " calibration tokens are few for the 256 inputs of 'model.layers.0.self_attn.k_proj.weight'; "
                "from 4096 on the result stops improving"});
}

}  // namespace
}  // namespace fettle::test
