// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/importance.h"

#include "plugins/harness.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fettle::test {
namespace {

using namespace fettle::kit;

Step importance(const std::string& tokens) {
  return Step("calibrate_importance", "calibrate.importance")
      .input("model", "model", prose_model(), {{"layout", "hf"}, {"layers", "4"}, {"hidden", "256"}}, "sha256:abc")
      .input("calibration", "tokens", tokens, {{"sequences", "16"}, {"length", "128"}});
}

TEST(CalibrateImportance, ScoresEveryPartOfTheModel) {
  const StepResult r = importance(prose_tokens(8)).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto scores = Importance::open(r.outputs.at("importance"));
  ASSERT_TRUE(scores.ok()) << scores.error().message();
  EXPECT_EQ(scores->model, "sha256:abc");
  EXPECT_EQ(scores->sequences, 8);
  EXPECT_EQ(scores->length, 128);
  EXPECT_EQ(scores->ffn.rows(), 4);
  EXPECT_EQ(scores->ffn.cols(), 768);
  EXPECT_EQ(scores->heads.cols(), 4);
  EXPECT_EQ(scores->norms.rows(), 8);
  EXPECT_EQ(scores->hidden().size(), 256U);
  EXPECT_EQ(scores->influence.size(), 4U);
  for (const float influence : scores->influence) EXPECT_TRUE(influence > 0 && influence < 1) << influence;
}

TEST(CalibrateImportance, ReportsInfluenceAndHistograms) {
  const StepResult r = importance(prose_tokens(8)).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.series.at("influence").size(), 4U);
  double neurons = 0;
  for (const auto& [score, count] : r.series.at("ffn.histogram")) neurons += count;
  EXPECT_EQ(neurons, 4 * 768);
  EXPECT_EQ(r.value("calibration_tokens"), 8 * 128);
}

TEST(CalibrateImportance, WritesTheSameBytesForAnyThreadCount) {
  const std::string tokens = prose_tokens(20);
  const StepResult one = importance(tokens).threads(1).run(), many = importance(tokens).threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("importance") + "/importance.safetensors"),
            file_bytes(many.outputs.at("importance") + "/importance.safetensors"));
}

TEST(CalibrateImportance, ForetellsOfWhichModelItIs) {
  const StepResult r = importance(prose_tokens(8)).estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.foretold.at("importance").at("model"), "sha256:abc");
  EXPECT_EQ(r.foretold.at("importance").at("layers"), "4");
}

TEST(CalibrateImportance, RefusesTooFewTokensWhilePlanning) {
  const StepResult r = Step("calibrate_importance", "calibrate.importance")
                           .input("model", "model", prose_model())
                           .input("calibration", "tokens", "", {{"sequences", "1"}, {"length", "128"}})
                           .estimate();
  EXPECT_EQ(r.where, "calibration");
  EXPECT_EQ(r.message,
            "128 calibration tokens are too few to rank anything by, at least 256 are needed (8,192 for a ranking that "
            "holds); give data.tokens more sequences");
}

TEST(CalibrateImportance, RefusesTooFewTokensWhenItRuns) {
  const StepResult r = importance(prose_tokens(1)).run();
  EXPECT_EQ(r.where, "calibration");
  EXPECT_EQ(r.message.substr(0, 48), "128 calibration tokens are too few to rank anyth");
}

TEST(CalibrateImportance, WarnsOfFewTokens) {
  const StepResult r = importance(prose_tokens(8)).run();
  ASSERT_EQ(r.warnings().size(), 1U);
  EXPECT_EQ(r.warnings()[0],
            "importance comes from 1,024 calibration tokens: below 8,192 the ranking still changes with the choice of "
            "the text");
}

TEST(CalibrateImportance, StopsWhenCancelled) {
  EXPECT_EQ(importance(prose_tokens(8)).cancel_at_poll(2).run().code, FETTLE_CANCELLED);
}

}  // namespace
}  // namespace fettle::test
