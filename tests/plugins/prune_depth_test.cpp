// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/importance.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/model/decoder.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "unit/kit/compress/tiny_families.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace fettle::test {
namespace {

using namespace fettle::kit;

Step prune(const std::string& model, const Attributes& more = {}) {
  Attributes attributes{{"layout", "hf"},  {"layers", "4"}, {"hidden", "32"},        {"ffn", "64"},      {"heads", "4"},
                        {"kv_heads", "2"}, {"vocab", "48"}, {"parameters", "50000"}, {"bytes", "200000"}};
  for (const auto& [key, value] : more) attributes[key] = value;
  return Step("prune_depth", "prune.depth").input("model", "model", model, attributes, "sha256:model");
}

Step prune_prose() { return prune(prose_model()).input("calibration", "tokens", prose_calibration()); }

std::vector<double> kept_blocks(const StepResult& r) {
  std::vector<double> kept;
  for (const auto& [at, block] : r.series.at("kept_block")) kept.push_back(block);
  return kept;
}

/// A tiny model whose block 2 passes on what it gets.
std::string idle_model() {
  return tiny_checkpoint(tiny_family("llama"), [](Tensors& tensors) {
    for (const char* name : {"model.layers.2.self_attn.o_proj.weight", "model.layers.2.mlp.down_proj.weight"})
      std::fill(tensors.at(name).begin(), tensors.at(name).end(), 0.0f);
  });
}

TEST(PruneDepth, IsAnIdentityWhereEverythingStays) {
  const StepResult r = prune_prose().param("layers", 1).param("measure", 0).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Checkpoint::open(prose_model()), after = Checkpoint::open(r.outputs.at("model"));
  ASSERT_EQ(before->tensors().size(), after->tensors().size());
  for (const TensorView* t : before->tensors()) {
    const TensorView* const other = after->find(t->name);
    ASSERT_TRUE(other != nullptr && std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin())) << t->name;
  }
}

TEST(PruneDepth, RemovesABlockThatPassesOnWhatItGetsFirst) {
  const std::string model = idle_model();
  const StepResult r = prune(model).input("calibration", "tokens", tiny_tokens()).param("layer_count", 3).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(kept_blocks(r), (std::vector<double>{0, 1, 3}));
  EXPECT_LT(r.series.at("influence")[2].second, 1e-12);
  EXPECT_GT(r.series.at("influence")[1].second, 1e-3);
  EXPECT_LE(relative_difference(tiny_logits(r.outputs.at("model")), tiny_logits(model)), 1e-6);
  EXPECT_EQ(r.value("nll"), r.value("nll_before"));
}

TEST(PruneDepth, MeasuresLossesAsTheSmallerModelHasThem) {
  const StepResult r = prune_prose().param("layer_count", 3).param("score", "loss").param("measure", 4).run();
  ASSERT_TRUE(r.ok()) << r.message;
  double least = 1e9;
  for (const auto& [block, loss] : r.series.at("loss_without.1")) least = std::min(least, loss);
  EXPECT_NEAR(r.value("nll") - r.value("nll_before"), least, 1e-9);
  EXPECT_EQ(r.series.at("loss_without.1").size(), 2U);  // the first and the last are protected
}

TEST(PruneDepth, MeasuresAnewAfterEachRemoval) {
  const StepResult r =
      prune_prose().param("layer_count", 1).param("protect_first", 0).param("score", "loss").param("measure", 2).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.series.at("loss_without.1").size(), 3U);
  EXPECT_EQ(r.series.at("loss_without.2").size(), 2U);
  EXPECT_EQ(r.series.at("loss_without.3").size(), 1U);
  EXPECT_EQ(kept_blocks(r), (std::vector<double>{3}));
}

TEST(PruneDepth, ComparesInfluenceWithTheLoss) {
  const StepResult scores = Step("calibrate_importance", "calibrate.importance")
                                .input("model", "model", prose_model())
                                .input("calibration", "tokens", prose_tokens(8))
                                .run();
  ASSERT_TRUE(scores.ok()) << scores.message;
  const StepResult r = prune_prose()
                           .input("importance", "stats", scores.outputs.at("importance"))
                           .param("layer_count", 3)
                           .param("protect_last", 0)
                           .param("score", "loss")
                           .param("measure", 2)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_LE(std::fabs(r.value("influence_rank_correlation")), 1);
}

TEST(PruneDepth, RemovesNeighboursAsOneRunIfAsked) {
  for (const char* score : {"influence", "loss", "random"}) {
    const StepResult r = prune_prose()
                             .param("layer_count", 2)
                             .param("contiguous", true)
                             .param("protect_last", 0)
                             .param("score", score)
                             .param("measure", 2)
                             .run();
    ASSERT_TRUE(r.ok()) << r.message;
    const auto kept = kept_blocks(r);
    EXPECT_TRUE(kept == (std::vector<double>{0, 1}) || kept == (std::vector<double>{0, 3})) << score;
  }
}

TEST(PruneDepth, RemovesWhatIsListed) {
  const StepResult r = prune(prose_model()).param("remove", {3, 0}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(kept_blocks(r), (std::vector<double>{1, 2}));
  EXPECT_EQ(r.value("layers"), 2);
  EXPECT_EQ(r.log.back().text, "removes blocks 0, 3");
}

TEST(PruneDepth, ReportsSizesBeforeAndAfter) {
  const StepResult r = prune_prose().param("layers", 0.75).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("parameters_before"), 3410176);
  EXPECT_EQ(r.value("parameters_before") - r.value("parameters"), 2 * 256 + 256 * (2 * 256 + 2 * 128) + 3 * 256 * 768);
  EXPECT_EQ(r.value("removed"), 1);
  EXPECT_GT(r.value("nll"), r.value("nll_before"));
}

TEST(PruneDepth, WritesTheSameForAnyThreadCount) {
  const auto result = [](unsigned threads) {
    const StepResult r =
        prune_prose().param("layer_count", 2).param("score", "loss").param("measure", 6).threads(threads).run();
    EXPECT_TRUE(r.ok()) << r.message;
    return std::pair(file_bytes(r.outputs.at("model") + "/model.safetensors"), r.series.at("loss_without.1"));
  };
  EXPECT_EQ(result(1), result(5));
}

TEST(PruneDepth, ForetellsTheBlocks) {
  const StepResult r = prune("").param("remove", {1}).estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.foretold.at("model").at("layers"), "3");
  EXPECT_EQ(r.foretold.at("model").at("ffn"), "64");
}

struct Refusal {
  const char* name;
  std::map<std::string, nlohmann::ordered_json> params;
  const char* where;
  const char* message;
};
void PrintTo(const Refusal& r, std::ostream* out) { *out << r.name; }

class PruneDepthRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(PruneDepthRefuses, WhilePlanning) {
  Step step = prune("").input("calibration", "tokens", "", {{"sequences", "12"}, {"length", "32"}});
  for (const auto& [name, value] : GetParam().params) step.param(name, value);
  StepResult r = step.validate();
  if (r.ok()) r = step.estimate();
  EXPECT_EQ(r.message, GetParam().message);
  EXPECT_EQ(r.where, GetParam().where);
}

INSTANTIATE_TEST_SUITE_P(
    Parameters, PruneDepthRefuses,
    ::testing::Values(
        Refusal{"nothing", {}, "", "says nothing to remove: give 'layers', 'layer_count' or 'remove'"},
        Refusal{"twice",
                {{"layers", 0.5}, {"remove", {1}}},
                "",
                "more than one of 'layers', 'layer_count' and 'remove' is given; give one"},
        Refusal{"more", {{"layer_count", 5}}, "layer_count", "layer_count is 5, but the model has 4"},
        Refusal{
            "rounds_to_all", {{"layers", 0.9}}, "layers", "0.9 of 4 blocks rounds to all of them; 3 of them are 0.750"},
        Refusal{
            "protected",
            {{"layer_count", 1}},
            "layer_count",
            "3 of 4 blocks would have to go, but only 2 may: the first 1 and the last 1 are protected; keep more, or "
            "lower 'protect_first' or 'protect_last'"},
        Refusal{"beyond", {{"remove", {1, 4}}}, "remove", "there is no block 4; the model has 0 to 3"},
        Refusal{"listed_twice", {{"remove", {1, 1}}}, "remove", "block 1 is listed twice"},
        Refusal{
            "nothing_left", {{"remove", {0, 1, 2, 3}}}, "remove", "all 4 blocks are listed, so nothing would be left"}),
    [](const auto& row) { return row.param.name; });

TEST(PruneDepth, RefusesToMeasureLossWithoutText) {
  const StepResult r = prune("").param("layer_count", 3).param("score", "loss").estimate();
  EXPECT_EQ(r.where, "score");
  EXPECT_EQ(r.message, "'loss' measures what the model loses on text: connect 'calibration'");
}

TEST(PruneDepth, RefusesToRankByNothing) {
  EXPECT_EQ(prune("").param("layer_count", 3).estimate().message,
            "needs something to rank by: connect 'importance' (from calibrate.importance) or 'calibration' (from "
            "data.tokens)");
}

TEST(PruneDepth, RefusesTextLongerThanTheContext) {
  const std::string model = tiny_checkpoint(tiny_family("llama"));
  const StepResult r = prune(model)
                           .input("calibration", "tokens", tiny_tokens(4, 65))
                           .param("layer_count", 3)
                           .param("score", "loss")
                           .run();
  EXPECT_EQ(r.message, "the sequences are 65 ids long, but must be 2 to 64, the model's context");
}

TEST(PruneDepth, StopsWhenCancelled) {
  EXPECT_EQ(prune_prose().param("layer_count", 2).param("score", "loss").cancel_at_poll(3).run().code,
            FETTLE_CANCELLED);
}

}  // namespace
}  // namespace fettle::test
