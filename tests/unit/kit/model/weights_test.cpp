// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/weights.h"

#include "fettle_kit/model/decoder.h"

#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

class WeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "weights_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  /// The message with which a decoder refuses the tiny model after `change`.
  std::string refusal(Json config, const std::function<void(std::vector<TensorSpec>&)>& change) {
    auto tensors = test::tiny_tensors(config);
    change(tensors);
    const Status written = test::write_tiny_model(folder_, config, tensors);
    if (!written.ok()) return "not written: " + written.message();
    auto weights = Weights::open(folder_);
    if (!weights.ok()) return weights.error().message();
    const auto decoder = Decoder::open(*std::move(weights));
    return decoder.ok() ? "accepted" : decoder.error().message();
  }

  std::string folder_;
};

TensorSpec& named(std::vector<TensorSpec>& tensors, const std::string& name) {
  for (TensorSpec& tensor : tensors)
    if (tensor.name == name) return tensor;
  throw std::runtime_error("no tensor " + name);
}

TEST_F(WeightsTest, AcceptsTheTinyModel) {
  EXPECT_EQ(refusal(test::tiny_llama_config(), [](auto&) {}), "accepted");
}

TEST_F(WeightsTest, NamesAMissingTensor) {
  EXPECT_EQ(refusal(test::tiny_llama_config(),
                    [](auto& tensors) { named(tensors, "model.layers.1.mlp.up_proj.weight").name = "other"; }),
            folder_ + ": tensor 'model.layers.1.mlp.up_proj.weight' is missing");
}

TEST_F(WeightsTest, NamesShapesFoundAndExpected) {
  EXPECT_EQ(
      refusal(test::tiny_llama_config(),
              [](auto& tensors) {
                named(tensors, "model.layers.0.self_attn.k_proj.weight").shape = {8, 32};
              }),
      folder_ +
          ": tensor 'model.layers.0.self_attn.k_proj.weight' has shape [8, 32], but config.json asks for [16, 32]");
}

TEST_F(WeightsTest, RefusesIntegerWeights) {
  EXPECT_EQ(refusal(test::tiny_llama_config(),
                    [](auto& tensors) { named(tensors, "model.layers.0.self_attn.v_proj.weight").dtype = DType::i32; }),
            folder_ + ": tensor 'model.layers.0.self_attn.v_proj.weight' is of type i32, which does not hold weights");
}

TEST_F(WeightsTest, AnUntiedModelNeedsItsHead) {
  EXPECT_EQ(refusal(test::tiny_llama_config(), [](auto& tensors) { named(tensors, "lm_head.weight").name = "other"; }),
            folder_ +
                ": tensor 'lm_head.weight' is missing; if the head is the embedding, config.json must say "
                "'tie_word_embeddings': true");
}

TEST_F(WeightsTest, ATiedModelIgnoresAHeadInTheFile) {
  Json tied = test::tiny_llama_config();
  tied["tie_word_embeddings"] = true;
  auto tensors = test::tiny_tensors(tied);
  tensors.push_back({"lm_head.weight", DType::f32, {48, 32}});
  ASSERT_TRUE(test::write_tiny_model(folder_, tied, tensors).ok());
  const auto weights = Weights::open(folder_);
  ASSERT_TRUE(weights.ok());
  EXPECT_EQ(weights->head()->data, weights->embedding()->data);
}

TEST_F(WeightsTest, ConfigProblemsNameTheFile) {
  Json config = test::tiny_llama_config();
  const auto tensors = test::tiny_tensors(config);
  config["model_type"] = "rwkv";
  ASSERT_TRUE(test::write_tiny_model(folder_, config, tensors).ok());
  EXPECT_EQ(Weights::open(folder_).error().message(),
            folder_ +
                "/config.json: model type 'rwkv' is not supported; supported are llama, mistral, qwen2, qwen3, phi3, "
                "gemma2, gemma3_text");
}

}  // namespace
}  // namespace fettle::kit
