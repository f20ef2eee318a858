// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/generate.h"

#include "fettle_kit/io/json.h"

#include "unit/kit/model/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

const std::string shared = FETTLE_TEST_SHARED;

Decoder open(const std::string& folder) {
  auto weights = Weights::open(folder);
  if (!weights.ok()) throw std::runtime_error(weights.error().message());
  auto decoder = Decoder::open(*std::move(weights));
  if (!decoder.ok()) throw std::runtime_error(decoder.error().message());
  return *std::move(decoder);
}

const std::vector<float> logits{std::log(0.5f), std::log(0.1f), std::log(0.3f), std::log(0.1f)};

std::map<std::int32_t, double> shares(const Sampling& sampling) {
  std::map<std::int32_t, double> found;
  for (std::uint64_t i = 0; i < 4000; ++i) found[choose_token(logits, sampling, 0, i)] += 1.0 / 4000;
  return found;
}

TEST(ChooseToken, ZeroTemperatureTakesTheFirstOfTheLikeliest) {
  EXPECT_EQ(choose_token(std::vector<float>{1, 3, 3, 2}, {}, 0, 0), 1);
}

TEST(ChooseToken, SamplesInProportion) {
  auto found = shares({.temperature = 1, .seed = 3});
  EXPECT_NEAR(found[0], 0.5, 0.04);  // five standard deviations
  EXPECT_NEAR(found[1], 0.1, 0.025);
  EXPECT_NEAR(found[2], 0.3, 0.04);
}

TEST(ChooseToken, TemperatureSharpens) {
  auto found = shares({.temperature = 0.5});
  EXPECT_NEAR(found[0], 0.25 / 0.36, 0.04);
}

TEST(ChooseToken, TopKKeepsTheLikeliestLowerIdsFirst) {
  const auto found = shares({.temperature = 1, .top_k = 3});
  EXPECT_EQ(found.size(), 3u);
  EXPECT_FALSE(found.contains(3));
}

TEST(ChooseToken, TopPKeepsTheFewestThatReachIt) {
  const auto found = shares({.temperature = 1, .top_p = 0.6});  // 0.5 alone does not
  EXPECT_EQ(found.size(), 2u);
  EXPECT_EQ(shares({.temperature = 1, .top_p = 0.0}).size(), 1u);
}

TEST(ChooseToken, SeedStreamAndStepDecide) {
  std::vector<std::int32_t> a, b, c;
  for (std::uint64_t i = 0; i < 50; ++i) {
    a.push_back(choose_token(logits, {.temperature = 1, .seed = 1}, 0, i));
    b.push_back(choose_token(logits, {.temperature = 1, .seed = 1}, 1, i));
    c.push_back(choose_token(logits, {.temperature = 1, .seed = 2}, 0, i));
  }
  EXPECT_NE(a, b);
  EXPECT_NE(a, c);
}

class GreedyProse : public ::testing::TestWithParam<std::string> {};

TEST_P(GreedyProse, ContinuesAsTheReferenceDoes) {
  const std::string golden = shared + "/goldens/" + GetParam() + "/golden.json";
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "the reference outputs are not here";
  const Decoder model = open(shared + "/models/" + GetParam());
  const auto json = read_json_file(golden);
  ASSERT_TRUE(json.ok());
  for (const Json& text : (*json)["greedy"]) {
    const auto made = generate(model, text["prompt_ids"].get<std::vector<std::int32_t>>(), 32, {});
    ASSERT_TRUE(made.ok());
    EXPECT_EQ(*made, text["new_ids"].get<std::vector<std::int32_t>>()) << text["prompt"];
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GreedyProse, ::testing::Values("prose-3m", "prose-34m"),
                         [](const auto& row) { return row.param == "prose-3m" ? "prose_3m" : "prose_34m"; });

class GenerateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "generate_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Decoder tiny(const Json& eos) {
    Json config = test::tiny_llama_config();
    config["eos_token_id"] = eos;
    const std::string path = folder_ + "/" + std::to_string(count_++);
    std::filesystem::create_directories(path);
    if (!test::write_tiny_model(path, config).ok()) throw std::runtime_error("cannot write the tiny model");
    return open(path);
  }
  std::string folder_;
  int count_ = 0;
};

TEST_F(GenerateTest, StopsBeforeAnEndToken) {
  const std::vector<std::int32_t> prompt{3, 4, 5};
  const auto all = generate(tiny(nullptr), prompt, 10, {.temperature = 1, .seed = 9});
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 10u);
  const std::int32_t end = (*all)[4];
  const auto first = std::find(all->begin(), all->end(), end);
  const auto cut = generate(tiny(Json::array({47, end})), prompt, 10, {.temperature = 1, .seed = 9});
  EXPECT_EQ(*cut, std::vector<std::int32_t>(all->begin(), first));
}

TEST_F(GenerateTest, StopsWhereTheContextIsFull) {
  const auto made = generate(tiny(nullptr), std::vector<std::int32_t>(60, 3), 10, {});
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(made->size(), 4u);
}

TEST_F(GenerateTest, ShowsTokensAsTheyCome) {
  std::vector<std::int32_t> seen;
  const auto made =
      generate(tiny(nullptr), std::vector<std::int32_t>{3}, 5, {}, 0, {}, [&](std::int32_t t) { seen.push_back(t); });
  EXPECT_EQ(seen, *made);
}

TEST_F(GenerateTest, RefusesAPromptOfNothingOrTooMuch) {
  const Decoder model = tiny(nullptr);
  EXPECT_EQ(generate(model, {}, 5, {}).error().message(),
            "the prompt is empty, and the model has no token to begin with");
  EXPECT_EQ(generate(model, std::vector<std::int32_t>(64, 3), 5, {}).error().message(),
            "the prompt has 64 tokens, but the model's context is 64");
}

}  // namespace
}  // namespace fettle::kit
