// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/token_set.h"

#include "plugins/harness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

using Ids = std::vector<std::int32_t>;

void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

/// Letters a..z are ids 1..26; with a template, id 0 is put in front.
std::string letter_tokenizer(bool with_template, bool with_bos = true) {
  nlohmann::ordered_json vocab{{"<s>", 0}};
  for (int i = 0; i < 26; ++i) vocab[std::string(1, static_cast<char>('a' + i))] = i + 1;
  nlohmann::ordered_json json{
      {"added_tokens", nlohmann::ordered_json::array()},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::ordered_json::array()}}}};
  if (with_bos) json["added_tokens"].push_back({{"id", 0}, {"content", "<s>"}, {"special", true}});
  if (with_template)
    json["post_processor"] = nlohmann::ordered_json::parse(
        R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {"<s>": {"ids": [0]}}})");
  const std::string folder = temporary_folder();
  write(folder + "/tokenizer.json", json.dump());
  return folder;
}

std::string text_folder(const std::string& text) {
  const std::string folder = temporary_folder();
  write(folder + "/a.txt", text);
  return folder;
}

Step tokens_of(const std::string& text, const std::string& tokenizer) {
  Step step("data_tokens", "data.tokens");
  step.input("text", "text", text_folder(text), {{"bytes", std::to_string(text.size())}});
  step.input("tokenizer", "model", tokenizer, {{"tokenizer", "sha256:t"}});
  return step;
}

kit::TokenSet result(const StepResult& r) {
  EXPECT_TRUE(r.ok()) << r.message;
  auto set = kit::TokenSet::open(r.outputs.at("tokens"));
  EXPECT_TRUE(set.ok()) << set.error().message();
  return *std::move(set);
}

Ids ids_of(const kit::TokenSet& set) { return Ids(set.ids().begin(), set.ids().end()); }

TEST(DataTokens, TakesAllWholeWindowsByDefault) {
  const auto r = tokens_of("abcdefgh", letter_tokenizer(false)).param("length", 3).run();
  const auto set = result(r);
  EXPECT_EQ(ids_of(set), (Ids{1, 2, 3, 4, 5, 6}));
  EXPECT_FALSE(set.bos());
  EXPECT_EQ(set.tokenizer_digest().substr(0, 7), "sha256:");
  EXPECT_EQ(r.value("tokens"), 6);
  EXPECT_EQ(r.value("sequences"), 2);
  EXPECT_EQ(r.value("bytes_per_token"), 1);
}

TEST(DataTokens, PutsBosInFrontWhereTheTemplateDoes) {
  const auto set = result(tokens_of("abcdefgh", letter_tokenizer(true)).param("length", 4).run());
  EXPECT_EQ(ids_of(set), (Ids{0, 1, 2, 3, 0, 4, 5, 6}));
  EXPECT_TRUE(set.bos());
}

TEST(DataTokens, PutsBosInFrontWhenTold) {
  EXPECT_EQ(ids_of(result(tokens_of("abcd", letter_tokenizer(false)).param("length", 3).param("bos", "always").run())),
            (Ids{0, 1, 2, 0, 3, 4}));
  EXPECT_EQ(ids_of(result(tokens_of("abcd", letter_tokenizer(true)).param("length", 2).param("bos", "never").run())),
            (Ids{1, 2, 3, 4}));
}

TEST(DataTokens, StopsAfterSoManyTokens) {
  EXPECT_EQ(ids_of(result(tokens_of("abcdefgh", letter_tokenizer(false)).param("length", 2).param("tokens", 5).run())),
            (Ids{1, 2, 3, 4}));
}

TEST(DataTokens, RandomWindowsAreDistinctAndDependOnTheSeedOnly) {
  std::string text;
  for (int i = 0; i < 26; ++i) text += std::string(2, static_cast<char>('a' + i));
  const std::string tokenizer = letter_tokenizer(false);
  const auto draw = [&](std::uint64_t seed, unsigned threads) {
    return ids_of(result(tokens_of(text, tokenizer)
                             .param("length", 2)
                             .param("sequences", 20)
                             .param("sampling", "random")
                             .seed(seed)
                             .threads(threads)
                             .run()));
  };
  const Ids first = draw(1, 1);
  EXPECT_EQ(first, draw(1, 2));
  EXPECT_NE(first, draw(2, 1));
  EXPECT_EQ(std::set<std::int32_t>(first.begin(), first.end()).size(), 20u);
}

TEST(DataTokens, SaysHowManyTokensAreMissing) {
  const auto r = tokens_of("abcdefgh", letter_tokenizer(true)).param("length", 4).param("sequences", 1000).run();
  EXPECT_EQ(r.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(r.where, "text");
  EXPECT_EQ(r.message, "the text has 8 tokens, but 1,000 sequences of 4 need 3,000; give more text, or ask for less");
}

TEST(DataTokens, RefusesTextShorterThanOneSequence) {
  EXPECT_EQ(tokens_of("abc", letter_tokenizer(false)).run().message,
            "the text has 3 tokens, but 1 sequence of 512 need 512; give more text, or ask for less");
}

TEST(DataTokens, RefusesEmptyText) {
  const auto r = tokens_of("", letter_tokenizer(false)).run();
  EXPECT_EQ(r.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(r.message, "the text is empty");
}

TEST(DataTokens, RefusesSequencesTogetherWithTokens) {
  const auto r = tokens_of("abc", letter_tokenizer(false)).param("sequences", 1).param("tokens", 5).validate();
  EXPECT_EQ(r.where, "tokens");
  EXPECT_EQ(r.message, "'sequences' and 'tokens' say the same thing twice; give one of them");
}

TEST(DataTokens, RefusesBosThatTheTokenizerLacks) {
  const auto r = tokens_of("abcd", letter_tokenizer(false, false)).param("bos", "always").run();
  EXPECT_EQ(r.where, "bos");
  EXPECT_EQ(r.message, "this tokenizer has no BOS token; choose auto or never");
}

TEST(DataTokens, RefusesAGgufModelWithoutTokenizerJson) {
  const std::string folder = temporary_folder();
  write(folder + "/model.gguf", "GGUF");
  const auto r = tokens_of("abc", folder).run();
  EXPECT_EQ(r.code, FETTLE_UNSUPPORTED);
  EXPECT_EQ(r.where, "tokenizer");
  EXPECT_EQ(r.message, "a GGUF model without tokenizer.json; connect the Hugging Face checkpoint it was made from");
}

TEST(DataTokens, StopsWhenCancelled) {
  const auto r = tokens_of(std::string(1 << 20, 'a'), letter_tokenizer(false)).cancel_at_poll(1).run();
  EXPECT_EQ(r.code, FETTLE_CANCELLED);
}

TEST(DataTokens, ForetellsTheAttributesOfItsOutput) {
  const auto r = tokens_of("abc", letter_tokenizer(false)).param("length", 100).param("tokens", 1050).estimate();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.foretold.at("tokens"), (Attributes{{"tokenizer", "sha256:t"}, {"length", "100"}, {"sequences", "10"}}));
}

}  // namespace
}  // namespace fettle::test
