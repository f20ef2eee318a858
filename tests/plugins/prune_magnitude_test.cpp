// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/io/checkpoint.h"

#include "plugins/harness.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

namespace fettle::test {
namespace {

using namespace fettle::kit;

constexpr const char* q = "model.layers.0.self_attn.q_proj.weight";
constexpr const char* down = "model.layers.0.mlp.down_proj.weight";
constexpr const char* embed = "model.embed_tokens.weight";

/// A checkpoint of three bf16 matrices [rows, cols] with seeded values; `poison` goes into element 5 of q_proj.
std::string model_of(std::int64_t rows, std::int64_t cols, std::optional<std::uint16_t> poison = {}) {
  const std::string folder = temporary_folder();
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    std::vector<float> values(static_cast<std::size_t>(rows * cols));
    for (float& v : values) v = normal(random);
    std::vector<std::byte> bytes(values.size() * 2);
    info(DType::bf16).from_f32(values.data(), bytes.data(), values.size());
    if (poison && spec.name == q) std::memcpy(bytes.data() + 10, &*poison, 2);
    return sink(bytes);
  };
  const Status written = write_checkpoint(
      folder, Json{{"model_type", "llama"}},
      {{down, DType::bf16, {rows, cols}}, {embed, DType::bf16, {rows, cols}}, {q, DType::bf16, {rows, cols}}}, source,
      "");
  EXPECT_TRUE(written.ok()) << written.message();
  return folder;
}

Step prune(const std::string& model) {
  return Step("prune_magnitude", "prune.magnitude").input("model", "model", model, {{"layout", "hf"}});
}

std::vector<float> weights(const std::string& folder, const char* name) {
  const auto model = Checkpoint::open(folder);
  const TensorView& t = *model->find(name);
  std::vector<float> out(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), out.data(), out.size());
  return out;
}

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(PruneMagnitude, KeepsTwoOfEveryFourAlongTheRow) {
  const std::string model = model_of(8, 16);
  const StepResult r = prune(model).param("pattern", "2:4").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto w = weights(r.outputs.at("model"), q);
  for (std::size_t g = 0; g < w.size(); g += 4)
    EXPECT_EQ((w[g] == 0) + (w[g + 1] == 0) + (w[g + 2] == 0) + (w[g + 3] == 0), 2);
}

TEST(PruneMagnitude, LeavesKeptWeightsBitForBit) {
  const std::string model = model_of(8, 16);
  const StepResult r = prune(model).param("share", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = weights(model, down), after = weights(r.outputs.at("model"), down);
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(after[i] == 0 || after[i] == before[i]);
}

TEST(PruneMagnitude, LeavesTheEmbeddingAlone) {
  const std::string model = model_of(8, 16);
  const StepResult r = prune(model).param("share", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(weights(r.outputs.at("model"), embed), weights(model, embed));
}

TEST(PruneMagnitude, CountsExactly) {
  const StepResult r = prune(model_of(8, 16)).param("share", 0.3).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("pruned"), 2 * std::floor(8 * 16 * 0.3));
  EXPECT_EQ(r.value("matrices"), 2);
}

TEST(PruneMagnitude, WritesTheMaskOfWhatItKept) {
  const StepResult r = prune(model_of(8, 16)).param("share", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto masks = read_masks(r.outputs.at("mask"));
  ASSERT_TRUE(masks.ok()) << masks.error().message();
  const auto w = weights(r.outputs.at("model"), q);
  for (std::int64_t i = 0; i < 8; ++i)
    for (std::int64_t j = 0; j < 16; ++j)
      EXPECT_EQ(masks->at(q).kept(i, j), w[static_cast<std::size_t>(i * 16 + j)] != 0);
}

TEST(PruneMagnitude, FollowsSharesPerMatrix) {
  const StepResult r = prune(model_of(8, 16)).param("share", 0.5).param("shares", {{"*.mlp.*", 0.25}}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto masks = read_masks(r.outputs.at("mask"));
  EXPECT_EQ(masks->at(down).count_pruned(), 32);
  EXPECT_EQ(masks->at(q).count_pruned(), 64);
}

TEST(PruneMagnitude, IsAnIdentityAtShareZero) {
  const std::string model = model_of(8, 16);
  const StepResult r = prune(model).param("share", 0.0).run();
  ASSERT_TRUE(r.ok()) << r.message;
  for (const char* name : {q, down, embed}) EXPECT_EQ(weights(r.outputs.at("model"), name), weights(model, name));
}

TEST(PruneMagnitude, WritesTheSameBytesForAnyThreadCount) {
  const std::string model = model_of(64, 128);
  const StepResult one = prune(model).param("share", 0.5).threads(1).run();
  const StepResult many = prune(model).param("share", 0.5).threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok());
  EXPECT_EQ(slurp(one.outputs.at("model") + "/model.safetensors"),
            slurp(many.outputs.at("model") + "/model.safetensors"));
  EXPECT_EQ(slurp(one.outputs.at("mask") + "/mask.safetensors"), slurp(many.outputs.at("mask") + "/mask.safetensors"));
}

TEST(PruneMagnitude, ForetellsTheSparsity) {
  const StepResult r = prune(model_of(8, 16)).param("pattern", "2:4").estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.foretold.at("model").at("sparsity"), "2:4");
  EXPECT_EQ(r.foretold.at("model").at("layout"), "hf");
}

TEST(PruneMagnitude, ReportsSizesBeforeAndAfter) {
  const StepResult r = prune(model_of(8, 16)).param("share", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("sparsity"), 0.5);
  EXPECT_EQ(r.value("parameters_before"), 3 * 8 * 16);
  EXPECT_EQ(r.value("parameters"), 2 * 8 * 16);
  EXPECT_EQ(r.value("bytes_before"), 3 * 8 * 16 * 2);
  EXPECT_EQ(r.value("bytes"), 3 * 8 * 16 * 2);  // zeros are stored
}

// Normal weights lie around 1.25 means of their absolute values, none beyond a few octaves.
TEST(PruneMagnitude, ReportsHowScoresLie) {
  const StepResult r = prune(model_of(64, 128)).param("share", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  double count = 0, near = 0;
  for (const auto& [octave, weights] : r.series.at("scores.q_proj")) {
    count += weights;
    if (std::fabs(octave) < 2) near += weights;
  }
  EXPECT_EQ(count, 64 * 128);
  EXPECT_GT(near, 0.75 * count);
  EXPECT_EQ(r.series.count("scores.embed_tokens"), 0U);
}

TEST(PruneMagnitude, StopsWhenCancelled) {
  const StepResult r = prune(model_of(8, 16)).param("share", 0.5).cancel_at_poll(1).run();
  EXPECT_EQ(r.code, FETTLE_CANCELLED);
}

TEST(PruneMagnitude, DemandsOneOfShareAndPattern) {
  const StepResult neither = prune("").validate();
  EXPECT_EQ(neither.message, "give one of 'share' and 'pattern', for example share: 0.5 or pattern: \"2:4\"");
  EXPECT_EQ(neither.where, "share");
  EXPECT_EQ(prune("").param("share", 0.5).param("pattern", "2:4").validate().where, "pattern");
}

TEST(PruneMagnitude, NamesTheMatrixThatGroupsDoNotDivide) {
  const StepResult r = prune(model_of(8, 18)).param("pattern", "2:4").run();
  EXPECT_EQ(
      r.message,
      "tensor 'model.layers.0.mlp.down_proj.weight' has rows of 18 weights, which groups of 4 do not divide; put it "
      "into 'ignore' or choose another pattern");
}

TEST(PruneMagnitude, RefusesAPatternThatIsNone) {
  const StepResult r = prune("").param("pattern", "4:2").validate();
  EXPECT_EQ(r.message, "pattern '4:2' is not N:M with 1 <= N <= M <= 64; 2:4 keeps two of every four weights");
  EXPECT_EQ(r.where, "pattern");
}

TEST(PruneMagnitude, RefusesAQuantizedModel) {
  const std::string folder = temporary_folder();
  const Json config{{"model_type", "llama"}, {"quantization_config", {{"quant_method", "gptq"}}}};
  const TensorSource source = [](const TensorSpec&, const TensorSink& sink) {
    return sink(std::vector<std::byte>(8 * 16 * 4));
  };
  ASSERT_TRUE(
      write_checkpoint(folder, config, {{"model.layers.0.mlp.up_proj.qweight", DType::i32, {8, 16}}}, source, "").ok());
  const StepResult r = prune(folder).param("share", 0.5).run();
  EXPECT_EQ(r.message,
            "the weights are quantized already, and packed codes cannot be pruned; prune the original checkpoint, then "
            "quantize the result");
  EXPECT_EQ(r.where, "model");
}

TEST(PruneMagnitude, NamesTheMatrixThatHoldsNaN) {
  const StepResult r = prune(model_of(8, 16, 0x7fc0)).param("share", 0.5).run();
  EXPECT_EQ(
      r.message,
      "tensor 'model.layers.0.self_attn.q_proj.weight' holds NaN, which has no magnitude; repair the model or put the "
      "tensor into 'ignore'");
}

TEST(PruneMagnitude, SaysWhenNothingMatches) {
  const StepResult r = prune(model_of(8, 16)).param("share", 0.5).param("targets", {"*.nothing"}).run();
  EXPECT_EQ(r.message,
            "no tensor of the model matches 'targets'; its names look like 'model.layers.0.self_attn.q_proj.weight'");
}

}  // namespace
}  // namespace fettle::test
