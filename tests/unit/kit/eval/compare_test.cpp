// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/compare.h"

#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/io/checkpoint.h"

#include "unit/kit/model/tiny_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

class CompareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "compare_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Decoder tiny(std::uint32_t seed, const Json& config = test::tiny_llama_config()) {
    const std::string path = folder_ + "/" + std::to_string(count_++);
    std::filesystem::create_directories(path);
    if (!test::write_tiny_model(path, config, seed).ok()) throw std::runtime_error("cannot write the tiny model");
    auto weights = Weights::open(path);
    if (!weights.ok()) throw std::runtime_error(weights.error().message());
    auto decoder = Decoder::open(*std::move(weights));
    if (!decoder.ok()) throw std::runtime_error(decoder.error().message());
    return *std::move(decoder);
  }

  Decoder tiny_with_nan() {
    const std::string path = folder_ + "/nan";
    const auto source = [](const TensorSpec& spec, const TensorSink& sink) {
      std::int64_t elements = 1;
      for (const std::int64_t n : spec.shape) elements *= n;
      const std::vector<float> values(static_cast<std::size_t>(elements), NAN);
      return sink(std::as_bytes(std::span(values)));
    };
    const Json config = test::tiny_llama_config();
    if (!write_checkpoint(path, config, test::tiny_tensors(config), source, "").ok())
      throw std::runtime_error("cannot write the tiny model");
    return *Decoder::open(*Weights::open(path));
  }

  static TokenSet windows(std::int64_t count) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < count * 20; ++i) ids.push_back(static_cast<std::int32_t>(i * i % 47));
    return {ids, 20, "", true};
  }

  std::string folder_;
  int count_ = 0;
};

TEST_F(CompareTest, AModelDoesNotDifferFromItself) {
  const Decoder model = tiny(1);
  const auto c = compare(model, model, windows(3));
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->tokens, 57);
  EXPECT_EQ(c->kl.value, 0);
  EXPECT_EQ(c->kl.standard_error, 0);
  EXPECT_EQ(c->delta_nll.value, 0);
  EXPECT_EQ(c->top1.value, 1);
  EXPECT_EQ(c->ppl.value, c->reference_ppl.value);
}

TEST_F(CompareTest, AgreesWithTheDefinitionsTokenByToken) {
  const Decoder candidate = tiny(1), reference = tiny(2);
  const TokenSet set = windows(4);
  const auto c = compare(candidate, reference, set);
  ASSERT_TRUE(c.ok());
  const auto p = perplexity(candidate, set), q = perplexity(reference, set);
  EXPECT_NEAR(c->ppl.value, p->ppl.value, 1e-9 * p->ppl.value);
  EXPECT_NEAR(c->reference_ppl.value, q->ppl.value, 1e-9 * q->ppl.value);
  EXPECT_NEAR(c->delta_nll.value, p->nll.value - q->nll.value, 1e-9);

  double kl = 0, top1 = 0;
  const Decoder* models[] = {&candidate, &reference};
  ASSERT_TRUE(score_windows(models, set, {}, [&](const ScoredRows& rows) {
                for (std::int64_t i = 0; i < rows.logits[0].rows; ++i) {
                  const auto a = rows.logits[0].row(i), b = rows.logits[1].row(i);
                  double za = 0, zb = 0;
                  std::size_t best_a = 0, best_b = 0;
                  for (std::size_t j = 0; j < a.size(); ++j) {
                    za += std::exp(double{a[j]}), zb += std::exp(double{b[j]});
                    if (a[j] > a[best_a]) best_a = j;
                    if (b[j] > b[best_b]) best_b = j;
                  }
                  for (std::size_t j = 0; j < a.size(); ++j)
                    kl += std::exp(double{b[j]}) / zb * ((b[j] - std::log(zb)) - (a[j] - std::log(za)));
                  top1 += best_a == best_b;
                }
              }).ok());
  EXPECT_NEAR(c->kl.value, kl / 76, 1e-6 * kl / 76);
  EXPECT_DOUBLE_EQ(c->top1.value, top1 / 76);
  EXPECT_GT(c->kl.standard_error, 0);
}

TEST_F(CompareTest, RefusesOtherVocabularies) {
  Json config = test::tiny_llama_config();
  config["vocab_size"] = 50;
  EXPECT_EQ(compare(tiny(1, config), tiny(1), windows(1)).error().message(),
            "the candidate has a vocabulary of 50, the reference one of 48; they cannot be compared token by token");
}

TEST_F(CompareTest, RefusesModelsThatPredictNan) {
  const Decoder good = tiny(1), bad = tiny_with_nan();
  EXPECT_EQ(compare(bad, good, windows(1)).error().message(),
            "the candidate predicts NaN or infinity; look for such values in its weights, or in the step that made "
            "them");
  EXPECT_EQ(compare(good, bad, windows(1)).error().message(),
            "the reference predicts NaN or infinity; look for such values in its weights, or in the step that made "
            "them");
  EXPECT_EQ(perplexity(bad, windows(1)).error().message(),
            "the model predicts NaN or infinity; look for such values in its weights, or in the step that made them");
}

TEST_F(CompareTest, StopsWhenAsked) {
  const Decoder model = tiny(1);
  EXPECT_EQ(compare(model, model, windows(1), {[] { return true; }, {}}).error().code(), Code::cancelled);
}

TEST_F(CompareTest, ReportsEveryWindow) {
  const Decoder model = tiny(1);
  std::vector<std::int64_t> seen;
  Watch watch;
  watch.progress = [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, 3);
    seen.push_back(done);
  };
  ASSERT_TRUE(compare(model, model, windows(3), watch).ok());
  EXPECT_EQ(seen, (std::vector<std::int64_t>{1, 2, 3}));
}

}  // namespace
}  // namespace fettle::kit
