// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/io/checkpoint.h"

#include "plugins/harness.h"
#include "plugins/prose.h"
#include "plugins/prune/ria/ria.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

constexpr const char* down = "model.layers.2.mlp.down_proj.weight";

Step prune_ria() {
  return Step("prune_ria", "prune.ria")
      .input("model", "model", prose_model(), {{"layout", "hf"}})
      .input("calibration", "tokens", prose_calibration());
}

TEST(RiaScore, AddsTheSharesOfRowAndColumn) {
  std::vector<float> w{1, -3, 2, 0, 1, 0};
  ria::score({w.data(), 2, 3}, std::vector<float>{4, 9, 16}, 0.5);
  // Row sums 6 and 1; column sums 1, 4, 2.
  EXPECT_THAT(w,
              ::testing::Pointwise(::testing::FloatNear(1e-6F), {(1.F + 1.F / 6) * 2, (3.F / 4 + 3.F / 6) * 3,
                                                                 (1.F + 2.F / 6) * 4, 0.F, (1.F / 4 + 1.F) * 3, 0.F}));
}

TEST(RiaScore, GivesARowOfZerosNoScore) {
  std::vector<float> w{0, 0, 1, 1};
  ria::score({w.data(), 2, 2}, std::vector<float>{1, 1}, 1);
  EXPECT_THAT(w, ::testing::ElementsAre(0, 0, 1.5F, 1.5F));
}

TEST(PruneRia, PrunesTheExactShareOfEachMatrix) {
  const StepResult r = prune_ria().param("share", 0.5).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto masks = read_masks(r.outputs.at("mask"));
  ASSERT_TRUE(masks.ok()) << masks.error().message();
  for (const auto& [name, mask] : *masks) EXPECT_EQ(mask.count_pruned(), mask.rows() * mask.cols() / 2) << name;
}

TEST(PruneRia, KeepsTwoOfEveryFourAlongTheRow) {
  const StepResult r = prune_ria().param("pattern", "2:4").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto masks = read_masks(r.outputs.at("mask"));
  const Mask& mask = masks->at(down);
  for (std::int64_t i = 0; i < mask.rows(); ++i)
    for (std::int64_t j = 0; j < mask.cols(); j += 4)
      ASSERT_EQ(mask.kept(i, j) + mask.kept(i, j + 1) + mask.kept(i, j + 2) + mask.kept(i, j + 3), 2);
}

TEST(PruneRia, WritesTheSameBytesForAnyThreadCount) {
  const StepResult one = prune_ria().param("share", 0.5).threads(1).run();
  const StepResult many = prune_ria().param("share", 0.5).threads(5).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("model") + "/model.safetensors"),
            file_bytes(many.outputs.at("model") + "/model.safetensors"));
}

TEST(PruneRia, MeasuresTheErrorOfEachMatrixOnHeldOutTokens) {
  const StepResult r = prune_ria().param("share", 0.5).param("held_out", 1).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.series.count("error.q_proj"), 1U);
  EXPECT_EQ(r.series.at("error.down_proj").size(), 4u);
  EXPECT_GT(r.value("reconstruction_error"), 0);
  EXPECT_LT(r.value("reconstruction_error"), 1);
}

TEST(PruneRia, LeavesSomeSequencesToCalibrateOn) {
  const StepResult r = prune_ria().param("share", 0.5).param("held_out", 1000).run();
  EXPECT_THAT(r.message, ::testing::StartsWith("held_out is 1000, but there are "));
  EXPECT_THAT(r.message, ::testing::EndsWith(" calibration sequences; some must be left to calibrate on"));
}

TEST(PruneRia, IsAnIdentityAtShareZero) {
  const StepResult r = prune_ria().param("share", 0.0).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto before = Checkpoint::open(prose_model()), after = Checkpoint::open(r.outputs.at("model"));
  for (const TensorView* t : before->tensors()) {
    const TensorView* const other = after->find(t->name);
    ASSERT_TRUE(other != nullptr && std::equal(t->bytes.begin(), t->bytes.end(), other->bytes.begin())) << t->name;
  }
}

TEST(PruneRia, ReportsHowScoresLie) {
  const StepResult r = prune_ria().param("pattern", "2:4").run();
  ASSERT_TRUE(r.ok()) << r.message;
  double weights = 0;
  for (const auto& [score, count] : r.series.at("scores.down_proj")) weights += count;
  EXPECT_EQ(weights, 4 * 256 * 768);
  EXPECT_EQ(r.value("sparsity"), 0.5);
  EXPECT_EQ(r.value("parameters_before") - r.value("parameters"), r.value("pruned"));
}

}  // namespace
}  // namespace fettle::test
