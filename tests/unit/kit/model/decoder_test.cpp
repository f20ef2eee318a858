// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/decoder.h"

#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/tensor/dtype.h"

#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

const std::string goldens = std::string(FETTLE_TEST_SHARED) + "/goldens/";
const std::string models = std::string(FETTLE_TEST_SHARED) + "/models/";

std::vector<float> floats(const SafetensorsReader& file, const std::string& name) {
  const TensorView* tensor = file.find(name);
  if (!tensor) return {};
  std::vector<float> values(static_cast<std::size_t>(tensor->elements()));
  info(tensor->dtype).to_f32(tensor->bytes.data(), values.data(), values.size());
  return values;
}

std::vector<std::int32_t> ids(const SafetensorsReader& file, const std::string& name) {
  const TensorView* tensor = file.find(name);
  if (!tensor) return {};
  std::vector<std::int32_t> values;
  const std::size_t size = tensor->dtype == DType::i64 ? 8 : 4;
  for (std::size_t at = 0; at < tensor->bytes.size(); at += size) {
    std::int32_t id = 0;  // the low half of a little-endian i64
    std::memcpy(&id, tensor->bytes.data() + at, sizeof id);
    values.push_back(id);
  }
  return values;
}

double largest_difference(ConstMatrix a, const std::vector<float>& b) {
  if (static_cast<std::size_t>(a.rows * a.cols) != b.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double difference = std::abs(double{a.data[i]} - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN counts as large
  }
  return largest;
}

Decoder open(const std::string& folder) {
  auto weights = Weights::open(folder);
  if (!weights.ok()) throw std::runtime_error(weights.error().message());
  auto decoder = Decoder::open(*std::move(weights));
  if (!decoder.ok()) throw std::runtime_error(decoder.error().message());
  return *std::move(decoder);
}

/// Reference outputs of transformers on small random models of every family: its README names the tolerance.
class Goldens : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(goldens + GetParam()))
      GTEST_SKIP() << "the reference outputs of transformers are not here";
  }
};

TEST_P(Goldens, HiddenStatesAndLogitsAgree) {
  const Decoder model = open(goldens + GetParam());
  auto file = SafetensorsReader::open(goldens + GetParam() + "/golden.safetensors");
  ASSERT_TRUE(file.ok());
  const auto tokens = ids(*file, "input_ids");
  const Batch batch{2, static_cast<std::int64_t>(tokens.size()) / 2};

  Rows x(batch.rows(), model.config().hidden);
  ASSERT_TRUE(model.embed(x, tokens).ok());
  const auto positions = model.positions(0, batch.length);
  EXPECT_LE(largest_difference(x, floats(*file, "hidden.0")), 1e-6);
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer) {
    model.block(x, layer, batch, positions);
    EXPECT_LE(largest_difference(x, floats(*file, "hidden." + std::to_string(layer + 1))), 1e-4) << "layer " << layer;
  }
  model.final_norm(x);
  EXPECT_LE(largest_difference(x, floats(*file, "hidden.final")), 1e-4);
  Rows logits(batch.rows(), model.config().vocab);
  model.logits(logits, x);
  EXPECT_LE(largest_difference(logits, floats(*file, "logits")), 1e-4);
}

TEST_P(Goldens, OneTokenAtATimeThroughTheCacheGivesTheSameBits) {
  const Decoder model = open(goldens + GetParam());
  auto file = SafetensorsReader::open(goldens + GetParam() + "/golden.safetensors");
  ASSERT_TRUE(file.ok());
  const auto tokens = ids(*file, "input_ids");
  const Batch batch{2, static_cast<std::int64_t>(tokens.size()) / 2};
  Rows whole(batch.rows(), model.config().hidden);
  ASSERT_TRUE(model.forward(whole, tokens, batch).ok());

  KvCache cache(model.config(), batch.length);
  for (std::int64_t t = 0; t < batch.length; t += t == 0 ? 5 : 1) {
    const Batch step{1, t == 0 ? 5 : 1};
    Rows x(step.rows(), model.config().hidden);
    ASSERT_TRUE(
        model
            .forward(x, std::span(tokens).subspan(static_cast<std::size_t>(t), static_cast<std::size_t>(step.length)),
                     step, &cache)
            .ok());
    const auto expected = MutMatrix(whole).rows_from(t, step.length);
    EXPECT_EQ(std::memcmp(MutMatrix(x).data, expected.data, static_cast<std::size_t>(x.rows() * x.cols()) * 4), 0) << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Goldens,
                         ::testing::Values("llama", "llama-bias", "llama-rope3-tied", "smollm-like", "mistral", "qwen2",
                                           "qwen3", "gemma3"),
                         [](const auto& row) {
                           std::string name = row.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Decoder, ThreadsDoNotChangeBits) {
  if (!std::filesystem::exists(models + "prose-3m")) GTEST_SKIP() << "the model prose-3m is not here";
  const Decoder model = open(models + "prose-3m");
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 300; ++i) tokens.push_back(i * 37 % 1024);
  const auto run = [&](int threads) {
    Rows x(300, model.config().hidden), logits(300, model.config().vocab);
    tbb::task_arena arena(threads);
    arena.execute([&] {
      EXPECT_TRUE(model.forward(x, tokens, {1, 300}).ok());
      model.logits(logits, x);
    });
    const ConstMatrix view = logits;
    return std::vector<float>(view.data, view.data + view.rows * view.cols);
  };
  const auto one = run(1);
  EXPECT_EQ(one, run(2));
  EXPECT_EQ(one, run(5));
}

TEST(Decoder, TheBatchAroundASequenceDoesNotChangeItsBits) {
  if (!std::filesystem::exists(models + "prose-3m")) GTEST_SKIP() << "the model prose-3m is not here";
  const Decoder model = open(models + "prose-3m");
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 3 * 40; ++i) tokens.push_back(i * 91 % 1024);
  Rows together(120, model.config().hidden), alone(40, model.config().hidden);
  ASSERT_TRUE(model.forward(together, tokens, {3, 40}).ok());
  ASSERT_TRUE(model.forward(alone, std::span(tokens).subspan(40, 40), {1, 40}).ok());
  const auto expected = MutMatrix(together).rows_from(40, 40);
  EXPECT_EQ(std::memcmp(MutMatrix(alone).data, expected.data, sizeof(float) * 40 * 256), 0);
}

TEST(Decoder, RefusesIdsOutsideTheVocabulary) {
  if (!std::filesystem::exists(goldens + "llama")) GTEST_SKIP() << "the reference outputs of transformers are not here";
  const Decoder model = open(goldens + "llama");
  Rows x(2, model.config().hidden);
  const std::vector<std::int32_t> tokens{1, 320};
  EXPECT_EQ(model.forward(x, tokens, {1, 2}).message(),
            "token id 320 is outside the model's vocabulary of 320; were the tokens made with another tokenizer?");
}

TEST(Decoder, StopsBetweenBlocksWhenAsked) {
  if (!std::filesystem::exists(goldens + "llama")) GTEST_SKIP() << "the reference outputs of transformers are not here";
  const Decoder model = open(goldens + "llama");
  Rows x(1, model.config().hidden);
  const std::vector<std::int32_t> tokens{1};
  EXPECT_EQ(model.forward(x, tokens, {1, 1}, nullptr, [] { return true; }).code(), Code::cancelled);
}

}  // namespace
}  // namespace fettle::kit
