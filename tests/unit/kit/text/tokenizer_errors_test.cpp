// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"
#include "fettle_kit/text/tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <ostream>
#include <stdexcept>
#include <string>

// What a broken or foreign tokenizer.json is told.
namespace fettle::kit {
namespace {

/// A small good file; a case replaces one member of it by JSON text.
Json good() {
  return Json::parse(R"({"added_tokens": [{"id": 4, "content": "<s>", "special": true}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": ["a b"], "unk_token": "<unk>"}})");
}

struct ErrorCase {
  const char* name;
  const char* path;   ///< of the member to replace
  const char* value;  ///< JSON
  Code code;
  const char* message;
};
std::ostream& operator<<(std::ostream& out, const ErrorCase& c) { return out << c.name; }

class TokenizerFileError : public ::testing::TestWithParam<ErrorCase> {};

TEST_P(TokenizerFileError, IsNamed) {
  const auto& c = GetParam();
  Json json = good();
  json[Json::json_pointer(c.path)] = Json::parse(c.value);
  const auto tokenizer = Tokenizer::parse(json.dump(), "t.json");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().message(), c.message);
  EXPECT_EQ(tokenizer.error().code(), c.code);
}

constexpr Code corrupt = Code::corrupt_data, foreign = Code::unsupported;

INSTANTIATE_TEST_SUITE_P(
    Model, TokenizerFileError,
    ::testing::Values(
        ErrorCase{"no_model", "/model", "null", corrupt, "t.json: 'model' is null, expected an object"},
        ErrorCase{"unigram", "/model/type", R"("Unigram")", foreign,
                  "t.json: model: type 'Unigram' is not supported, expected BPE"},
        ErrorCase{"type_of_type", "/model/type", "7", corrupt, "t.json: model: 'type' is a number, expected a string"},
        ErrorCase{"prefix", "/model/continuing_subword_prefix", R"("##")", foreign,
                  "t.json: model: 'continuing_subword_prefix' is '##', only an empty one is supported"},
        ErrorCase{"dropout", "/model/dropout", "0.1", foreign,
                  "t.json: model: 'dropout' is 0.1, which makes ids random; set it to null"},
        ErrorCase{"flag", "/model/byte_fallback", R"("yes")", corrupt,
                  "t.json: model: 'byte_fallback' is a string, expected true or false"},
        ErrorCase{"vocab_list", "/model/vocab", "[]", corrupt, "t.json: model: vocab: is a list, expected an object"},
        ErrorCase{"vocab_missing", "/model/vocab", "null", corrupt,
                  "t.json: model: 'vocab' is null, expected an object"},
        ErrorCase{"vocab_empty", "/model", R"({"type": "BPE", "vocab": {}, "merges": []})", corrupt,
                  "t.json: model: vocab: is empty"},
        ErrorCase{"id_text", "/model/vocab/a", R"("0")", corrupt,
                  "t.json: model: vocab: the id of piece 'a' is a string, expected a whole number"},
        ErrorCase{"id_fraction", "/model/vocab/a", "0.5", corrupt,
                  "t.json: model: vocab: the id of piece 'a' is a number, expected a whole number"},
        ErrorCase{"id_negative", "/model/vocab/a", "-1", corrupt,
                  "t.json: model: vocab: the id of piece 'a' is -1, expected 0 to 4,194,303"},
        ErrorCase{"id_two_to_31", "/model/vocab/a", "2147483648", corrupt,
                  "t.json: model: vocab: the id of piece 'a' is 2147483648, expected 0 to 4,194,303"},
        ErrorCase{"id_two_to_64", "/model/vocab/a", "18446744073709551615", corrupt,
                  "t.json: model: vocab: the id of piece 'a' is 18446744073709551615, expected 0 to 4,194,303"},
        ErrorCase{"id_twice", "/model/vocab/b", "0", corrupt, "t.json: model: vocab: pieces 'a' and 'b' share id 0"},
        ErrorCase{"merge_unknown", "/model/merges", R"(["a b", "a c"])", corrupt,
                  "t.json: model: merges: number 1 ('a' 'c'): piece 'c' is not in the vocabulary"},
        ErrorCase{"merge_result_unknown", "/model/merges", R"([["b", "a"]])", corrupt,
                  "t.json: model: merges: number 0 ('b' 'a'): piece 'ba' is not in the vocabulary"},
        ErrorCase{"merge_of_itself", "/model/merges", R"([["ab", ""]])", corrupt,
                  "t.json: model: merges: number 0 ('ab' ''): a part is empty"},
        ErrorCase{"merge_three", "/model/merges", R"(["a b ab"])", corrupt,
                  "t.json: model: merges: number 0 is 'a b ab', expected two pieces as \"left right\" or [\"left\", "
                  "\"right\"]"},
        ErrorCase{"merge_number", "/model/merges", "[5]", corrupt,
                  "t.json: model: merges: number 0 is a number, expected two pieces as \"left right\" or [\"left\", "
                  "\"right\"]"},
        ErrorCase{"merges_missing", "/model/merges", "null", corrupt,
                  "t.json: model: 'merges' is null, expected a list"},
        ErrorCase{"unk_unknown", "/model/unk_token", R"("?")", corrupt,
                  "t.json: model: unk_token: piece '?' is not in the vocabulary"}),
    [](const auto& row) { return row.param.name; });

INSTANTIATE_TEST_SUITE_P(
    AddedTokens, TokenizerFileError,
    ::testing::Values(
        ErrorCase{"no_list", "/added_tokens", "{}", corrupt, "t.json: 'added_tokens' is an object, expected a list"},
        ErrorCase{"no_object", "/added_tokens/0", "3", corrupt,
                  "t.json: added_tokens[0]: is a number, expected an object"},
        ErrorCase{"no_content", "/added_tokens/0", R"({"id": 4})", corrupt,
                  "t.json: added_tokens[0]: 'content' is missing, expected a string"},
        ErrorCase{"empty", "/added_tokens/0/content", R"("")", corrupt, "t.json: added_tokens[0]: 'content' is empty"},
        ErrorCase{"huge_id", "/added_tokens/0/id", "2147483648", corrupt,
                  "t.json: added_tokens[0]: 'id' is 2147483648, expected a whole number from 0 to 4194303"},
        ErrorCase{"other_id", "/added_tokens/0", R"({"id": 9, "content": "ab"})", corrupt,
                  "t.json: added_tokens[0]: 'ab' has id 9, but 2 elsewhere"},
        ErrorCase{"id_taken", "/added_tokens/0/id", "2", corrupt,
                  "t.json: added_tokens[0]: '<s>' has id 2, which is 'ab' already"}),
    [](const auto& row) { return row.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Processing, TokenizerFileError,
    ::testing::Values(
        ErrorCase{"normalizer_type", "/normalizer", R"({"type": "Precompiled"})", foreign,
                  "t.json: normalizer: type 'Precompiled' is not supported, expected Sequence, Prepend, Replace, NFC, "
                  "NFD, NFKC, "
                  "NFKD, Lowercase, Strip or StripAccents"},
        ErrorCase{"normalizer_nested", "/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {}]})",
                  corrupt, "t.json: normalizer: normalizers[1]: 'type' is missing, expected a string"},
        ErrorCase{"normalizer_grows", "/normalizer",
                  R"({"type": "Sequence", "normalizers": [
                    {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"},
                    {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaaaaaa"}]})",
                  foreign,
                  "t.json: normalizer: normalizers[1]: together the replacements could make a text more than 256 times "
                  "longer"},
        ErrorCase{"normalizer_empty_string", "/normalizer",
                  R"({"type": "Replace", "pattern": {"String": ""}, "content": ""})", foreign,
                  "t.json: normalizer: 'pattern' is an empty string"},
        ErrorCase{"pre_tokenizer_type", "/pre_tokenizer", R"({"type": "BertPreTokenizer"})", foreign,
                  "t.json: pre_tokenizer: type 'BertPreTokenizer' is not supported, expected Sequence, ByteLevel, "
                  "Split, Digits, "
                  "Whitespace, WhitespaceSplit, Punctuation or Metaspace"},
        ErrorCase{
            "behavior", "/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Mixed"})",
            foreign,
            "t.json: pre_tokenizer: behavior 'Mixed' is not supported, expected Isolated, Removed, MergedWithPrevious, "
            "MergedWithNext or Contiguous"},
        ErrorCase{"regex", "/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})",
                  corrupt, "t.json: pre_tokenizer: pattern: the pattern does not compile: missing closing parenthesis"},
        ErrorCase{"regex_dialect", "/pre_tokenizer",
                  R"j({"type": "Split", "pattern": {"Regex": "(?<n>a)"}, "behavior": "Isolated"})j", foreign,
                  "t.json: pre_tokenizer: pattern: this kind of '(?' at byte 1 of the pattern is not supported"},
        ErrorCase{"regex_escape", "/pre_tokenizer",
                  R"({"type": "Split", "pattern": {"Regex": "a\\K"}, "behavior": "Isolated"})", foreign,
                  "t.json: pre_tokenizer: pattern: '\\K' at byte 2 of the pattern is not supported"},
        ErrorCase{"metaspace", "/pre_tokenizer", R"({"type": "Metaspace", "replacement": "__"})", corrupt,
                  "t.json: pre_tokenizer: 'replacement' is not one character"},
        ErrorCase{"metaspace_scheme", "/pre_tokenizer", R"({"type": "Metaspace", "prepend_scheme": "last"})", foreign,
                  "t.json: pre_tokenizer: prepend_scheme 'last' is not supported, expected always, first or never"},
        ErrorCase{"decoder_type", "/decoder", R"({"type": "WordPiece"})", foreign,
                  "t.json: decoder: type 'WordPiece' is not supported, expected Sequence, ByteLevel, Replace, "
                  "ByteFallback, Fuse, "
                  "Strip or Metaspace"},
        ErrorCase{"decoder_strip", "/decoder", R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})", corrupt,
                  "t.json: decoder: 'start' is -1, expected a whole number from 0 to 2147483647"},
        ErrorCase{"post_processor_type", "/post_processor", R"({"type": "BertProcessing"})", foreign,
                  "t.json: post_processor: type 'BertProcessing' is not supported, expected Sequence, ByteLevel or "
                  "TemplateProcessing"},
        ErrorCase{"template_without_text", "/post_processor",
                  R"({"type": "TemplateProcessing", "single": [], "special_tokens": {}})", foreign,
                  "t.json: post_processor: 'single' has no 'Sequence', so no text would be encoded"},
        ErrorCase{
            "template_unknown", "/post_processor",
            R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}], "special_tokens": {}})",
            corrupt, "t.json: post_processor: special_tokens: '<s>' is missing, but the template uses it"},
        ErrorCase{
            "template_id", "/post_processor",
            R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                    "special_tokens": {"<s>": {"ids": [1000]}}})",
            corrupt, "t.json: post_processor: the template adds id 1,000, which no token has"}),
    [](const auto& row) { return row.param.name; });

std::string message_of(const std::string& text) {
  const auto tokenizer = Tokenizer::parse(text, "t.json");
  return tokenizer.ok() ? "" : tokenizer.error().message();
}

TEST(TokenizerFile, RefusesEveryTruncation) {
  const std::string text = good().dump();
  ASSERT_EQ(message_of(text), "");
  for (std::size_t n = 0; n < text.size(); ++n) EXPECT_NE(message_of(text.substr(0, n)), "") << n;
}

TEST(TokenizerFile, RefusesAVocabularyNestedAMillionDeep) {
  std::string text = R"({"model": {"type": "BPE", "vocab": )";
  for (int i = 0; i < 1'000'000; ++i) text += "[";
  EXPECT_EQ(message_of(text), "t.json:1:162: nested deeper than 128 levels");
}

TEST(TokenizerFile, SaysWhatAFolderWithoutATokenizerLacks) {
  const std::string folder = ::testing::TempDir();
  const auto tokenizer = Tokenizer::open(folder + "none");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().message(), folder + "none: has no tokenizer.json, nor vocab.json and merges.txt");
  EXPECT_EQ(tokenizer.error().code(), Code::not_found);
}

TEST(TokenizerFile, NamesTheLineOfABadMerge) {
  const std::string vocab = ::testing::TempDir() + "vocab.json", merges = ::testing::TempDir() + "merges.txt";
  std::ofstream(vocab) << R"({"a": 0, "b": 1, "ab": 2})";
  std::ofstream(merges) << "#version: 0.2\na b\nabab\n";
  const auto tokenizer = Tokenizer::open_gpt2(vocab, merges);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().message(), merges + ":3: 'abab' is not two pieces with a space between");
}

// The pattern backtracks exponentially on a run of a's that no b follows.
TEST(Tokenizer, GivesUpOnAPatternThatBacktracksWithoutEnd) {
  Json json = good();
  json["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(?:(?:a|a)*)*b|(?:a|aa)+$(?!a)c"}}}, {"behavior", "Isolated"}};
  const auto tokenizer = Tokenizer::parse(json.dump(), "t.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  const auto ids = tokenizer->try_encode(std::string(200, 'a'), {});
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().message(),
            "the split pattern of this tokenizer backtracks without end on this text; use a tokenizer.json with a "
            "simpler pattern");
  EXPECT_THROW(tokenizer->encode(std::string(200, 'a')), std::runtime_error);
}

}  // namespace
}  // namespace fettle::kit
