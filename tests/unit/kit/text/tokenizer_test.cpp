// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/tokenizer.h"

#include "fettle_kit/io/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

using Ids = std::vector<std::int32_t>;

Json small() {
  return Json::parse(
      R"({"added_tokens": [{"id": 7, "content": "<s>", "special": true}, {"id": 9, "content": "=", "special": false}],
    "model": {"type": "BPE", "vocab": {"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "abc": 6},
              "merges": ["b c", "a b", "a bc"], "unk_token": "<unk>"}})");
}

Tokenizer tokenizer_of(const Json& json) {
  auto tokenizer = Tokenizer::parse(json.dump(), "t.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  return *std::move(tokenizer);
}

TEST(Tokenizer, MergesTheLowestRankFirst) {
  const Tokenizer t = tokenizer_of(small());
  EXPECT_EQ(t.encode("abc"), (Ids{6}));  // b c, then a bc
  EXPECT_EQ(t.encode("abcab"), (Ids{6, 4}));
  EXPECT_EQ(t.encode("cb"), (Ids{3, 2}));
}

TEST(Tokenizer, ReplacesInvalidUtf8First) {
  const Tokenizer t = tokenizer_of(small());
  EXPECT_EQ(t.encode("a\xff"
                     "b"),
            t.encode("a\uFFFD"
                     "b"));
  EXPECT_EQ(t.encode("\xe2\x96"), t.encode("\uFFFD"));                  // one maximal part
  EXPECT_EQ(t.encode("\xed\xa0\x80"), t.encode("\uFFFD\uFFFD\uFFFD"));  // a surrogate is three
}

TEST(Tokenizer, StopsAtTheFirstIdsOfTheWholeText) {
  const Tokenizer t = tokenizer_of(small());
  std::string text;
  for (int i = 0; i < 100; ++i) text += "abc=<s>cab";
  const Ids all = t.encode(text);
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{7}, all.size(), all.size() + 1}) {
    Tokenizer::EncodeOptions options;
    options.max_tokens = n;
    EXPECT_EQ(*t.try_encode(text, options),
              Ids(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(n, all.size()))));
  }
}

// A word of a million characters would take hours if each merge cost its length.
TEST(Tokenizer, TakesAMillionCharactersWithoutABreak) {
  Json json = small();
  json["model"]["vocab"]["aa"] = 10;
  json["model"]["vocab"]["aaaa"] = 11;
  json["model"]["merges"] = {"a a", "aa aa"};
  EXPECT_EQ(tokenizer_of(json).encode(std::string(1'000'000, 'a')), Ids(250'000, 11));
}

TEST(Tokenizer, KnowsWhatEachTokenIsFor) {
  Json json = small();
  json["model"]["vocab"]["<0x41>"] = 8;
  json["model"]["byte_fallback"] = true;
  const Tokenizer t = tokenizer_of(json);
  EXPECT_EQ(t.vocab_size(), 10);
  EXPECT_EQ(t.token(0)->kind, PieceKind::unknown);
  EXPECT_EQ(t.token(6)->kind, PieceKind::normal);
  EXPECT_EQ(t.token(7)->kind, PieceKind::control);
  EXPECT_EQ(t.token(8)->kind, PieceKind::byte);
  EXPECT_EQ(t.token(9)->kind, PieceKind::user_defined);
  EXPECT_EQ(t.token(10), nullptr);
  EXPECT_EQ(t.token(-1), nullptr);
  EXPECT_EQ(t.bos(), 7);
  EXPECT_EQ(t.unk(), 0);
  EXPECT_FALSE(t.adds_bos());
}

TEST(Tokenizer, GivesMergesAndScoresForExport) {
  const Tokenizer t = tokenizer_of(small());
  EXPECT_EQ(t.merges(), (std::vector<std::string>{"b c", "a b", "a bc"}));
  EXPECT_EQ(t.scores(), (std::vector<float>{0, 0, 0, 0, -1, 0, -2, 0, 0, 0}));
}

TEST(Tokenizer, HasADigestOfWhatDecidesIds) {
  const std::string digest = tokenizer_of(small()).digest();
  EXPECT_EQ(digest.size(), 7u + 64u);
  Json json = small();
  json["padding"] = {{"strategy", "BatchLongest"}};
  json["decoder"] = {{"type", "Fuse"}};
  json["model"]["merges"] = Json::parse(R"([["b", "c"], ["a", "b"], ["a", "bc"]])");
  EXPECT_EQ(tokenizer_of(json).digest(), digest);
  // Each of these makes other ids.
  const std::pair<const char*, const char*> changes[] = {
      {"/model/vocab/abc", "8"},
      {"/model/merges", R"(["a b", "b c", "a bc"])"},
      {"/model/fuse_unk", "true"},
      {"/model/ignore_merges", "true"},
      {"/model/unk_token", "null"},
      {"/added_tokens/1/lstrip", "true"},
      {"/added_tokens/1/content", R"("==")"},
      {"/normalizer", R"({"type": "NFC"})"},
      {"/normalizer", R"({"type": "NFD"})"},
      {"/pre_tokenizer", R"({"type": "WhitespaceSplit"})"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "b"}, "behavior": "Isolated"})"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "b"}, "behavior": "Removed"})"},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {}}],
                             "special_tokens": {"<s>": {"ids": [7]}}})"},
  };
  std::vector<std::string> seen{digest};
  for (const auto& [path, value] : changes) {
    Json changed = small();
    changed[Json::json_pointer(path)] = Json::parse(value);
    seen.push_back(tokenizer_of(changed).digest());
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
}

TEST(Tokenizer, NamesTheSplitPattern) {
  Json json = small();
  EXPECT_EQ(tokenizer_of(json).split_pattern(), "");
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}};
  const Tokenizer gpt2 = tokenizer_of(json);
  EXPECT_EQ(gpt2.split_pattern(), R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  EXPECT_TRUE(gpt2.byte_level());
  EXPECT_TRUE(gpt2.adds_dummy_prefix());
  EXPECT_FALSE(gpt2.splits_digits());
}

}  // namespace
}  // namespace fettle::kit
