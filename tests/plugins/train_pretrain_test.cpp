// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "unit/kit/model/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

namespace fettle::test {
namespace {

using namespace fettle::kit;
using ::testing::ElementsAre;
namespace fs = std::filesystem;

/// A random llama of 48 tokens and something that could be a tokenizer.
const std::string& tiny_model() {
  static const std::string folder = [] {
    const std::string f = temporary_folder();
    EXPECT_TRUE(write_tiny_model(f).ok());
    std::ofstream(f + "/tokenizer.json") << "{}";
    std::ofstream(f + "/README.md") << "of the old model";
    return f;
  }();
  return folder;
}

/// Sequences that count upwards in steps of their own: easy to learn.
std::string tokens(std::int64_t sequences, std::int64_t length = 16, std::int32_t vocab = 48) {
  std::vector<std::int32_t> ids;
  for (std::int64_t s = 0; s < sequences; ++s)
    for (std::int64_t i = 0; i < length; ++i)
      ids.push_back(static_cast<std::int32_t>((s * 7 + i * (1 + s % 3)) % vocab));
  const std::string folder = temporary_folder();
  EXPECT_TRUE(TokenSet(ids, length, "sha256:t", false).save(folder).ok());
  return folder;
}

Step pretrain(const std::string& data) {
  return Step("train_pretrain", "train.pretrain")
      .input("model", "model", tiny_model(),
             {{"layout", "hf"}, {"architecture", "llama"}, {"hidden", "32"}, {"layers", "2"}})
      .input("data", "tokens", data)
      .param("batch", 4)
      .param("micro_batch", 2)
      .param("steps", 6)
      .param("lr", 0.01);
}
Step pretrain() {
  static const std::string data = tokens(20);
  return pretrain(data);
}
std::string held_out() {
  static const std::string folder = tokens(3);
  return folder;
}

std::string weights(const StepResult& r) { return file_bytes(r.outputs.at("model") + "/model.safetensors"); }

TEST(TrainPretrain, LearnsOneBatchByHeart) {
  const StepResult r = pretrain(tokens(4)).param("steps", 150).param("schedule", "constant").run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LT(r.value("loss"), 0.01);
}

TEST(TrainPretrain, StartsAtTheLossOfAGuess) {
  const StepResult r = pretrain().run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_NEAR(r.series.at("loss")[0].second, std::log(48), 0.05);
}

TEST(TrainPretrain, GoesOnFromTheModelsWeights) {
  const StepResult first = pretrain().param("steps", 60).param("dtype", "f32").run();
  ASSERT_TRUE(first.ok()) << first.message;
  const StepResult further = Step("train_pretrain", "train.pretrain")
                                 .input("model", "model", first.outputs.at("model"))
                                 .input("data", "tokens", tokens(20))
                                 .param("start", "model")
                                 .param("steps", 1)
                                 .param("batch", 4)
                                 .run();
  ASSERT_TRUE(further.ok()) << further.message;
  EXPECT_LT(further.value("loss"), first.series.at("loss")[30].second);
}

TEST(TrainPretrain, DependsOnTheSeed) {
  EXPECT_NE(weights(pretrain().seed(1).run()), weights(pretrain().seed(2).run()));
}

TEST(TrainPretrain, WritesTheSameBytesForAnyThreadCount) {
  const std::string expected = weights(pretrain().input("held_out", "tokens", held_out()).threads(1).run());
  for (const unsigned threads : {2U, 3U, 7U})
    EXPECT_EQ(weights(pretrain().input("held_out", "tokens", held_out()).threads(threads).run()), expected) << threads;
}

TEST(TrainPretrain, WritesTheSameBytesWithCheckpointing) {
  EXPECT_EQ(weights(pretrain().param("checkpointing", true).run()), weights(pretrain().run()));
}

TEST(TrainPretrain, WritesNearlyTheSameHoweverABatchIsSplit) {
  const StepResult whole = pretrain().param("micro_batch", 4).run(), split = pretrain().param("micro_batch", 1).run();
  ASSERT_TRUE(whole.ok() && split.ok()) << whole.message << split.message;
  for (std::size_t i = 0; i < 6; ++i)
    EXPECT_NEAR(whole.series.at("loss")[i].second, split.series.at("loss")[i].second, 1e-5) << i;
}

TEST(TrainPretrain, GoesOnAfterACancelledRunToTheSameBytes) {
  const auto step = [] { return pretrain().input("held_out", "tokens", held_out()).param("evaluate_every", 2); };
  const StepResult whole = step().run();
  ASSERT_TRUE(whole.ok()) << whole.message;
  for (const std::uint64_t poll : {6U, 9U, 15U}) {
    const std::string folder = temporary_folder();
    ASSERT_EQ(step().checkpoint(folder).cancel_at_poll(poll).run().code, FETTLE_CANCELLED);
    const StepResult resumed = step().checkpoint(folder).run();
    ASSERT_TRUE(resumed.ok()) << resumed.message;
    ASSERT_FALSE(resumed.log.empty());
    EXPECT_TRUE(resumed.log[0].text.starts_with("going on after step ")) << resumed.log[0].text;
    EXPECT_EQ(weights(resumed), weights(whole));
    EXPECT_EQ(resumed.series, whole.series);
  }
}

TEST(TrainPretrain, DoesNotTakeTheStateOfAnotherSeed) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pretrain().seed(1).checkpoint(folder).cancel_at_poll(5).run().code, FETTLE_CANCELLED);
  const StepResult r = pretrain().seed(2).checkpoint(folder).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_THAT(r.warnings(), ElementsAre("the saved state of this training is not used: " + folder +
                                        "/state.safetensors: the state of another training; training starts anew"));
  EXPECT_EQ(weights(r), weights(pretrain().seed(2).run()));
}

TEST(TrainPretrain, ReturnsTheBestWeightsOnHeldOutData) {
  const StepResult r = pretrain(tokens(4))
                           .input("held_out", "tokens", tokens(3, 16, 31))
                           .param("steps", 40)
                           .param("evaluate_every", 2)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  double best = 1e9;
  for (const auto& [step, loss] : r.series.at("held_out_loss")) best = std::min(best, loss);
  EXPECT_EQ(r.value("held_out_loss"), best);
  EXPECT_LT(r.value("best_step"), 40);
}

TEST(TrainPretrain, StopsWhenPatienceEnds) {
  const StepResult r = pretrain(tokens(4))
                           .input("held_out", "tokens", tokens(3, 16, 31))
                           .param("steps", 200)
                           .param("evaluate_every", 2)
                           .param("patience", 3)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("steps"), r.value("best_step") + 6);
}

TEST(TrainPretrain, KeepsFrozenTensors) {
  const StepResult r =
      pretrain().param("start", "model").param("dtype", "f32").param("frozen", {"*.mlp.*", "*embed*"}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Checkpoint::open(tiny_model()), after = Checkpoint::open(r.outputs.at("model"));
  for (const TensorView* t : after->tensors()) {
    const bool frozen = t->name.find(".mlp.") != t->name.npos || t->name.find("embed") != t->name.npos;
    const TensorView* old = before->find(t->name);
    ASSERT_NE(old, nullptr) << t->name;
    EXPECT_EQ(std::ranges::equal(t->bytes, old->bytes), frozen) << t->name;
  }
}

TEST(TrainPretrain, KeepsMaskedWeightsAtZero) {
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto model = Checkpoint::open(tiny_model());
  const TensorView& t = *model->find(name);
  Mask mask(t.rows(), t.cols());
  for (std::int64_t i = 0; i < t.rows(); ++i)
    for (std::int64_t j = 0; j < t.cols(); j += 2) mask.prune(i, j);
  const std::string folder = temporary_folder();
  auto writer = MaskWriter::create(folder, {{name, t.rows(), t.cols()}});
  ASSERT_TRUE(writer->add(name, mask).ok() && writer->finish().ok());

  const StepResult r = pretrain().input("mask", "mask", folder).param("dtype", "f32").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto trained = Checkpoint::open(r.outputs.at("model"));
  const TensorView& u = *trained->find(name);
  std::vector<float> values(static_cast<std::size_t>(u.elements()));
  info(u.dtype).to_f32(u.bytes.data(), values.data(), values.size());
  for (std::int64_t i = 0; i < u.rows(); ++i)
    for (std::int64_t j = 0; j < u.cols(); ++j)
      ASSERT_EQ(values[static_cast<std::size_t>(i * u.cols() + j)] == 0, j % 2 == 0);
}

TEST(TrainPretrain, WritesTheShapeItWasAskedFor) {
  const StepResult r = pretrain()
                           .param("hidden", 16)
                           .param("layers", 3)
                           .param("heads", 2)
                           .param("kv_heads", 1)
                           .param("intermediate", 24)
                           .param("context", 32)
                           .param("tied", true)
                           .param("dtype", "bf16")
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto model = Checkpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(model.ok()) << model.error().message();
  EXPECT_EQ(model->find("model.layers.2.self_attn.k_proj.weight")->shape, (std::vector<std::int64_t>{8, 16}));
  EXPECT_EQ(model->find("model.layers.2.mlp.down_proj.weight")->shape, (std::vector<std::int64_t>{16, 24}));
  EXPECT_EQ(model->find("lm_head.weight"), nullptr);
  EXPECT_EQ(model->config()["max_position_embeddings"], 32);
  EXPECT_EQ(model->find("model.norm.weight")->dtype, DType::bf16);
}

TEST(TrainPretrain, StoresInTheTypeOfTheModelIfAsked) {
  const StepResult r = pretrain().param("dtype", "same").run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(Checkpoint::open(r.outputs.at("model"))->find("model.norm.weight")->dtype, DType::f32);
}

TEST(TrainPretrain, CarriesTheTokenizerOverToANewModel) {
  const StepResult r = pretrain().run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(file_bytes(r.outputs.at("model") + "/tokenizer.json"), "{}");
  EXPECT_FALSE(fs::exists(r.outputs.at("model") + "/README.md")) << "it is about another model";
}

TEST(TrainPretrain, CarriesEverythingOverWhenItTrainsFurther) {
  const StepResult r = pretrain().param("start", "model").run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(file_bytes(r.outputs.at("model") + "/README.md"), "of the old model");
}

TEST(TrainPretrain, TellsHowFarItIs) {
  const StepResult r = pretrain().run();
  ASSERT_FALSE(r.progress.empty());
  EXPECT_EQ(r.progress.back().done, 6U * 4 * 16);
  EXPECT_EQ(r.progress.back().total, 6U * 4 * 16);
}

TEST(TrainPretrain, ForetellsWhatItWrites) {
  const StepResult r = pretrain().param("layers", 3).estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.foretold.at("model").at("layers"), "3");
  EXPECT_EQ(r.foretold.at("model").at("weights"), "bf16");
}

TEST(TrainPretrain, WarnsIfTrainingDidNotHelp) {
  const StepResult r = pretrain().input("held_out", "tokens", held_out()).param("lr", 0).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_THAT(r.warnings(), ElementsAre("the learning rate is 0: nothing will change",
                                        "training did not lower the held-out loss: the model is returned as it was"));
}

TEST(TrainPretrain, RefusesSizesForAModelThatHasThem) {
  const StepResult r = pretrain().param("start", "model").param("layers", 3).validate();
  EXPECT_EQ(r.message, "sizes are those of the model that is trained further; leave them out, or set start: scratch");
  EXPECT_EQ(r.where, "start");
}

TEST(TrainPretrain, RefusesSequencesLongerThanTheContext) {
  const StepResult r = pretrain(tokens(4, 65)).run();
  EXPECT_EQ(r.message,
            "the sequences are 65 ids long, but the model's context is 64; make them shorter with 'length' of "
            "data.tokens");
  EXPECT_EQ(r.where, "data");
}

TEST(TrainPretrain, RefusesIdsOutsideTheVocabulary) {
  const StepResult r = pretrain(tokens(9, 16, 50)).run();
  EXPECT_EQ(r.message, "id 49 is outside the model's vocabulary of 48: cut the text with the tokenizer of this model");
}

TEST(TrainPretrain, RefusesAFrozenPatternThatNamesNothing) {
  const StepResult r = pretrain().param("frozen", {"*.mpl.*"}).run();
  EXPECT_EQ(r.message, "'*.mpl.*' matches no tensor of the model");
  EXPECT_EQ(r.where, "frozen");
}

TEST(TrainPretrain, RefusesToTrainNothing) {
  EXPECT_EQ(pretrain().param("frozen", {"*"}).run().message, "nothing to train: every tensor is frozen");
}

TEST(TrainPretrain, NamesSizesThatDoNotFitTogether) {
  const StepResult r = pretrain().param("hidden", 30).run();
  EXPECT_NE(r.message.find("'hidden_size' is 30, not a multiple of 'num_attention_heads' 4"), std::string::npos)
      << r.message;
}

}  // namespace
}  // namespace fettle::test
