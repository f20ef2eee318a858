// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/perplexity.h"

#include "fettle_kit/eval/windows.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/io/safetensors.h"

#include "unit/kit/eval/prose.h"
#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <string>

namespace fettle::kit {
namespace {

TEST(NegativeLogLikelihood, IsLogSumExpMinusTheLogit) {
  std::vector<float> logits{1, 2, 3};
  EXPECT_NEAR(negative_log_likelihood(logits, 1), std::log(std::exp(1) + std::exp(2) + std::exp(3)) - 2, 1e-6);
}

TEST(NegativeLogLikelihood, SurvivesLargeLogits) {
  std::vector<float> logits{10000, 9990};
  EXPECT_NEAR(negative_log_likelihood(logits, 1), 10 + std::log1p(std::exp(-10)), 1e-6);
}

class PerplexityOfProse : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!prose::available()) GTEST_SKIP() << "the prose models and their text are not here";
  }
};

TEST_F(PerplexityOfProse, FirstWindowAgreesTokenByToken) {
  const Decoder model = prose::decoder("prose-3m");
  const auto golden = prose::golden("prose-3m");
  const auto ids = prose::ids(golden, "window0.input_ids");
  const auto nll = prose::floats(golden, "window0.nll"), logits = prose::floats(golden, "window0.logits_first8");
  std::size_t at = 0;
  double worst_nll = 0, worst_logit = 0;
  const Decoder* models[] = {&model};
  const Status status = score_windows(models, TokenSet(ids, 512, "", true), {}, [&](const ScoredRows& rows) {
    for (std::int64_t i = 0; i < rows.logits[0].rows; ++i, ++at) {
      if (at < 8)
        for (std::int64_t j = 0; j < 1024; ++j)
          worst_logit = std::max(
              worst_logit, std::abs(double{rows.logits[0](i, j)} - logits[at * 1024 + static_cast<std::size_t>(j)]));
      const double found = negative_log_likelihood(rows.logits[0].row(i), rows.targets[static_cast<std::size_t>(i)]);
      worst_nll = std::max(worst_nll, std::abs(found - nll[at]));
    }
  });
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(at, 511u);
  EXPECT_LE(worst_logit, 1e-4);
  EXPECT_LE(worst_nll, 1e-4);
}

TEST_F(PerplexityOfProse, FortyWindowsAgreeWithTransformers) {
  const Decoder model = prose::decoder("prose-3m");
  const Tokenizer tokenizer = prose::tokenizer("prose-3m");
  const auto windows = windows_of_text(tokenizer, prose::text(), 512, 40);
  ASSERT_TRUE(windows.ok());
  const auto result = perplexity(model, *windows, &tokenizer);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->windows, 40);
  EXPECT_EQ(result->tokens, 20440);
  EXPECT_NEAR(result->nll.value, 3.7890185723427967, 1e-6);
  EXPECT_NEAR(result->ppl.value, 44.212987127661115, 1e-4);
}

TEST(Perplexity, ConfidenceIsTheMeanOfTheLargestProbability) {
  const std::string folder = ::testing::TempDir() + "perplexity_confidence";
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(test::write_tiny_model(folder).ok());
  const auto model = Decoder::open(*Weights::open(folder));
  ASSERT_TRUE(model.ok());
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 3 * 20; ++i) ids.push_back(i * i % 48);
  const TokenSet windows(ids, 20, "", true);
  double sum = 0;
  const Decoder* models[] = {&*model};
  ASSERT_TRUE(score_windows(models, windows, {}, [&](const ScoredRows& rows) {
                for (std::int64_t i = 0; i < rows.logits[0].rows; ++i) {
                  double largest = 0, all = 0;
                  for (const float x : rows.logits[0].row(i)) {
                    largest = std::max(largest, std::exp(double{x}));
                    all += std::exp(double{x});
                  }
                  sum += largest / all;
                }
              }).ok());
  const auto result = perplexity(*model, windows);
  ASSERT_TRUE(result.ok());
  EXPECT_NEAR(result->confidence.value, sum / (3 * 19), 1e-6);
  EXPECT_GT(result->confidence.standard_error, 0);
  std::filesystem::remove_all(folder);
}

TEST(Perplexity, RefusesWindowsBeyondTheContext) {
  const std::string folder = ::testing::TempDir() + "perplexity_context";
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(test::write_tiny_model(folder).ok());
  const auto model = Decoder::open(*Weights::open(folder));
  ASSERT_TRUE(model.ok());
  const auto result = perplexity(*model, TokenSet(std::vector<std::int32_t>(65, 3), 65, "", true));
  EXPECT_EQ(result.error().message(),
            "the sequences are 65 ids long, but the model's context is 64; make them shorter with 'length'");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace fettle::kit
