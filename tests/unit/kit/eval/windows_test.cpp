// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/windows.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace fettle::kit {
namespace {

const std::string models = std::string(FETTLE_TEST_SHARED) + "/models/";

class WindowsOfText : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(models)) GTEST_SKIP() << "the shared models are not here";
  }
  static Tokenizer tokenizer(const std::string& model) {
    auto result = Tokenizer::open(models + model);
    if (!result.ok()) throw std::runtime_error(result.error().message());
    return *std::move(result);
  }
};

TEST_F(WindowsOfText, PutsBosInFrontOfEachAndDropsTheRest) {
  const Tokenizer t = tokenizer("prose-3m");
  const std::string text = "It was a cold evening in November when the driver came to the house.";
  const auto ids = t.encode(text);
  const auto windows = windows_of_text(t, text, 6, 0);
  ASSERT_TRUE(windows.ok());
  EXPECT_EQ(windows->length(), 6);
  EXPECT_EQ(windows->sequences(), static_cast<std::int64_t>(ids.size() / 5));
  EXPECT_TRUE(windows->bos());
  EXPECT_EQ(windows->tokenizer_digest(), t.digest());
  for (std::int64_t w = 0; w < windows->sequences(); ++w) {
    EXPECT_EQ(windows->sequence(w)[0], *t.bos());
    EXPECT_TRUE(std::equal(windows->sequence(w).begin() + 1, windows->sequence(w).end(), ids.begin() + w * 5));
  }
}

TEST_F(WindowsOfText, StopsAtTheCap) {
  const auto windows = windows_of_text(tokenizer("prose-3m"), std::string(1000, 'a'), 3, 2);
  ASSERT_TRUE(windows.ok());
  EXPECT_EQ(windows->sequences(), 2);
}

TEST_F(WindowsOfText, ATextShorterThanOneWindowSaysHowMuchIsMissing) {
  EXPECT_EQ(windows_of_text(tokenizer("prose-3m"), "aa", 512, 0).error().message(),
            "the text has 2 tokens, but one window needs 511; give more text or a smaller 'length'");
}

TEST_F(WindowsOfText, RefusesALengthThatPredictsNothing) {
  EXPECT_EQ(windows_of_text(tokenizer("prose-3m"), "aa", 1, 0).error().message(), "'length' is 1, expected at least 2");
}

TEST_F(WindowsOfText, BytesOfTokensAddUpToTheText) {
  const std::string text = "caf\u00e9 \u2014 na\u00efve \U0001F600 and 3,000 more.\n";
  for (const std::string model : {"prose-3m", "prose-34m"}) {
    const Tokenizer t = tokenizer(model);
    std::int64_t bytes = 0;
    for (const std::int32_t id : t.encode(text)) bytes += bytes_of_token(t, id);
    EXPECT_EQ(bytes, static_cast<std::int64_t>(text.size())) << model;
  }
}

TEST_F(WindowsOfText, SentencePieceSpacesAndByteTokensCountOneByte) {
  const Tokenizer t = tokenizer("stories260K");
  const std::string text = "Once upon a time, caf\u00e9 \U0001F600";
  std::int64_t bytes = 0;
  for (const std::int32_t id : t.encode(text)) bytes += bytes_of_token(t, id);
  EXPECT_EQ(bytes, static_cast<std::int64_t>(text.size()) + 1);  // the space that its normalizer puts in front
}

TEST_F(WindowsOfText, SpecialTokensStandForNoBytes) {
  const Tokenizer t = tokenizer("prose-3m");
  EXPECT_EQ(bytes_of_token(t, *t.bos()), 0);
  EXPECT_EQ(bytes_of_token(t, -1), 0);
}

}  // namespace
}  // namespace fettle::kit
