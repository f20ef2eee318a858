// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/decoder.h"

#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/io/sha256.h"
#include "fettle_kit/tensor/dtype.h"

#include "kernels/kernel_testing.h"
#include "unit/kit/model/bits_by_instruction_set.h"
#include "unit/kit/model/goldens.h"

#include <gtest/gtest.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <array>
#include <cmath>
#include <cstdio>
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

Decoder open(const std::string& folder, Precision precision = Precision::real) {
  auto weights = Weights::open(folder);
  if (!weights.ok()) throw std::runtime_error(weights.error().message());
  auto decoder = Decoder::open(*std::move(weights), precision);
  if (!decoder.ok()) throw std::runtime_error(decoder.error().message());
  return *std::move(decoder);
}

/// Reference outputs of transformers on small random models of every family.
class Goldens : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(folder_)) GTEST_SKIP() << "the reference outputs of transformers are not here";
  }
  const std::string folder_ = test::golden_folder(GetParam());
};

TEST_P(Goldens, HiddenStatesAndLogitsAgree) {
  const Decoder model = open(folder_);
  auto file = SafetensorsReader::open(folder_ + "/golden.safetensors");
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
  const Decoder model = open(folder_);
  auto file = SafetensorsReader::open(folder_ + "/golden.safetensors");
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

INSTANTIATE_TEST_SUITE_P(Families, Goldens, ::testing::ValuesIn(test::kGoldens),
                         [](const auto& row) { return test::golden_label(row.param); });

/// Logits of 300 tokens of the 3M model.
std::vector<float> prose_logits(const Decoder& model) {
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 300; ++i) tokens.push_back(i * 37 % 1024);
  Rows x(300, model.config().hidden), logits(300, model.config().vocab);
  EXPECT_TRUE(model.forward(x, tokens, {1, 300}).ok());
  model.logits(logits, x);
  const ConstMatrix view = logits;
  return {view.data, view.data + view.rows * view.cols};
}

TEST(Decoder, ThreadsDoNotChangeBits) {
  if (!std::filesystem::exists(models + "prose-3m")) GTEST_SKIP() << "the model prose-3m is not here";
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    const Decoder model = open(models + "prose-3m", precision);
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 7}) {
      const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
      tbb::task_arena(threads).execute([&] {
        const std::vector<float> logits = prose_logits(model);
        if (first.empty()) first = logits;
        expect_same(logits, first, std::to_string(threads) + " threads");
      });
    }
  }
}

/// What the next test reads from this program run again, once for each instruction set.
TEST(DecoderBits, OfForwardAndOfTheCache) {
  if (!std::filesystem::exists(models + "prose-3m")) GTEST_SKIP() << "the model prose-3m is not here";
  Sha256 digest;
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    const Decoder model = open(models + "prose-3m", precision);
    const std::vector<float> logits = prose_logits(model);
    digest.update(logits.data(), logits.size() * sizeof(float));
    KvCache cache(model.config(), 8);
    for (std::int32_t t = 0; t < 8; ++t) {
      Rows x(1, model.config().hidden);
      ASSERT_TRUE(model.forward(x, std::array<std::int32_t, 1>{t * 97}, {1, 1}, &cache).ok());
      digest.update(MutMatrix(x).data, static_cast<std::size_t>(x.cols()) * sizeof(float));
    }
  }
  std::printf("bits: %s\n", digest.hex().c_str());
}

TEST(Decoder, GivesTheSameBitsOnEveryInstructionSet) {
  if (!std::filesystem::exists(models + "prose-3m")) GTEST_SKIP() << "the model prose-3m is not here";
  const auto digests = test::bits_by_instruction_set("DecoderBits.OfForwardAndOfTheCache");
  ASSERT_EQ(digests.size(), usable_kernels().size());
  for (const auto& [name, digest] : digests) EXPECT_EQ(digest, digests.begin()->second) << name;
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
