// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/foldable_block.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

const std::string goldens = std::string(FETTLE_TEST_SHARED) + "/goldens/";

/// Small random models of every family that the engine runs.
class FoldedFamily : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(goldens + GetParam())) GTEST_SKIP() << "the models of the families are not here";
  }
  static Decoder open() {
    auto weights = Weights::open(goldens + GetParam());
    if (!weights.ok()) throw std::runtime_error(weights.error().message());
    return *Decoder::open(*std::move(weights));
  }
};

/// Scales between 0.3 and 3, another for each column.
std::vector<float> uneven(std::int64_t n) {
  std::vector<float> scales(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = std::exp(1.1F * std::sin(static_cast<float>(i) * 1.7F));
  return scales;
}

TEST_P(FoldedFamily, ComputesTheSame) {
  const Decoder model = open();
  const Batch batch{2, 24};
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < batch.rows(); ++i)
    ids.push_back(static_cast<std::int32_t>(i * 37 % model.config().vocab));
  Rows start(batch.rows(), model.config().hidden);
  ASSERT_TRUE(model.embed(start, ids).ok());
  const auto positions = model.positions(0, batch.length);
  const std::size_t values = ids.size() * static_cast<std::size_t>(model.config().hidden);
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer) {
    FoldableBlock block(model, layer);
    for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_hidden})
      block.fold(site, uneven(block.fold_width(site)), DType::bf16);
    Rows before = start, after = start;
    model.block(before, layer, model.block_weights(layer), batch, positions);
    model.block(after, layer, block.weights(), batch, positions);
    const float *b = MutMatrix(before).data, *a = MutMatrix(after).data;
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < values; ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(b[i])));
      difference = std::max(difference, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    }
    EXPECT_LE(difference, 1e-5 * largest) << "layer " << layer;
    start = before;
  }
}

TEST_P(FoldedFamily, StaysBitForBitWithScalesOfOne) {
  const Decoder model = open();
  FoldableBlock block(model, 0);
  const BlockWeights before = block.weights();
  const ConstMatrix q = block.matrix(0);
  const std::vector<float> copy(q.data, q.data + q.rows * q.cols);
  for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_hidden})
    block.fold(site, std::vector<float>(static_cast<std::size_t>(block.fold_width(site)), 1.0F), DType::bf16);
  EXPECT_EQ(block.weights().attention_norm, before.attention_norm);
  EXPECT_EQ(block.weights().mlp_norm, before.mlp_norm);
  EXPECT_EQ(std::memcmp(copy.data(), q.data, copy.size() * sizeof(float)), 0);
}

TEST_P(FoldedFamily, UnfoldsWhatStandsInItsPlaces) {
  const Decoder model = open();
  FoldableBlock block(model, 0);
  const FoldableBlock before = block;
  for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_hidden}) {
    const auto fitting = block.fitting(site, uneven(block.fold_width(site)), DType::bf16);
    EXPECT_EQ(block.fold(site, uneven(block.fold_width(site)), DType::bf16), fitting);
  }
  for (std::size_t i = 0; i < block_linears.size(); ++i) {
    const MutMatrix w = block.matrix(i);
    block.unfold(i, w);
    const ConstMatrix original = before.matrix(i);
    for (std::int64_t at = 0; at < w.rows * w.cols; ++at)
      ASSERT_NEAR(w.data[at], original.data[at], 1e-6F * std::abs(original.data[at]));
  }
}

INSTANTIATE_TEST_SUITE_P(Every, FoldedFamily,
                         ::testing::Values("llama", "llama-bias", "llama-rope3-tied", "mistral", "qwen2", "qwen3",
                                           "gemma3", "smollm-like"),
                         [](const auto& family) {
                           std::string name = family.param;
                           for (char& c : name)
                             if (c == '-') c = '_';
                           return name;
                         });

}  // namespace
}  // namespace fettle::kit
