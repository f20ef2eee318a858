// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/fold_plan.h"

#include "unit/kit/io/scratch_folder.h"
#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

namespace fettle::kit {
namespace {

class FoldPlanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder_ / "m");
    ASSERT_TRUE(test::write_tiny_model(folder_ / "m").ok());
    auto checkpoint = Checkpoint::open(folder_ / "m");
    ASSERT_TRUE(checkpoint.ok());
    checkpoint_.emplace(*std::move(checkpoint));
    model_.emplace(*Decoder::open(*Weights::open(folder_ / "m")));
  }
  std::vector<const TensorView*> all_but(const std::string& name) const {
    std::vector<const TensorView*> targets;
    for (const TensorView* t : checkpoint_->tensors())
      if (is_block_linear(t->name) && t->name != name) targets.push_back(t);
    return targets;
  }
  FoldPlan plan_without(const std::string& name) const {
    return {model_->config(), *checkpoint_, all_but(name), std::nullopt};
  }

  test::ScratchFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<Decoder> model_;
};

TEST_F(FoldPlanTest, FoldsWhereAllThatChangesIsQuantized) {
  struct Case {
    const char* dense;
    std::array<bool, site_count> folds;  // attention_in, attention_out, mlp_in, mlp_hidden
  };
  const Case cases[] = {{"", {true, true, true, true}},
                        {"self_attn.q_proj", {false, true, true, true}},
                        {"self_attn.v_proj", {false, false, true, true}},
                        {"self_attn.o_proj", {true, false, true, true}},
                        {"mlp.gate_proj", {true, true, false, true}},
                        {"mlp.up_proj", {true, true, false, false}},
                        {"mlp.down_proj", {true, true, true, false}}};
  for (const Case& c : cases) {
    const FoldPlan plan = plan_without(std::string("model.layers.1.") + c.dense + ".weight");
    for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_hidden}) {
      EXPECT_EQ(plan.folds(1, site), c.folds[index_of(site)]) << c.dense << " " << index_of(site);
      EXPECT_TRUE(plan.folds(0, site));
    }
  }
}

TEST_F(FoldPlanTest, StoresTheNormsThatItNamed) {
  const FoldPlan plan = plan_without("model.layers.0.self_attn.q_proj.weight");
  std::vector<std::string> names;
  for (const TensorView* t : plan.changed()) names.push_back(t->name);
  EXPECT_EQ(names, (std::vector<std::string>{"model.layers.0.post_attention_layernorm.weight",
                                             "model.layers.1.input_layernorm.weight",
                                             "model.layers.1.post_attention_layernorm.weight"}));
  FoldableBlock block(*model_, 1);
  block.fold(Site::mlp_in, std::vector<float>(static_cast<std::size_t>(block.fold_width(Site::mlp_in)), 2.0F),
             plan.norm_type(1, Site::mlp_in));
  std::map<std::string, std::vector<float>> stored;
  ASSERT_TRUE(plan.store(block, 1,
                         [&](const TensorView& t, std::span<const float> values) -> Status {
                           stored[t.name].assign(values.begin(), values.end());
                           return {};
                         })
                  .ok());
  const BlockWeights& before = model_->block_weights(1);
  EXPECT_EQ(stored.at("model.layers.1.input_layernorm.weight"), before.attention_norm);
  std::vector<float> halved = before.mlp_norm;
  for (float& v : halved) v /= 2;
  EXPECT_EQ(stored.at("model.layers.1.post_attention_layernorm.weight"), halved);
}

TEST_F(FoldPlanTest, KnowsHowNormsWillBeStored) {
  EXPECT_EQ(plan_without("").norm_type(0, Site::mlp_in), DType::f32);
  EXPECT_EQ(FoldPlan(model_->config(), *checkpoint_, all_but(""), DType::f16).norm_type(0, Site::mlp_in), DType::f16);
}

}  // namespace
}  // namespace fettle::kit
