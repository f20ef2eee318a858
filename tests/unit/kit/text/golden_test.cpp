// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"
#include "fettle_kit/text/tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

// Ids that other implementations gave, case by case. tests/data/tokenizers/make_goldens.py wrote the files there.
namespace fettle::kit {
namespace {

const std::string shared = FETTLE_TEST_SHARED, data = FETTLE_TEST_DATA;
using Ids = std::vector<std::int32_t>;

struct GoldenCase {
  const char* name;
  std::string tokenizer;  ///< folder
  std::string cases;      ///< list of {text, ids, and maybe add_special, ids_with_bos, decoded, decoded_skip_special}
  bool decoded;           ///< compare "decoded" too: false where it is of a library that tidies spaces
};

std::ostream& operator<<(std::ostream& out, const GoldenCase& c) { return out << c.name; }

class TokenizerGoldenFile : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(TokenizerGoldenFile, GivesTheSameIdsAndText) {
  const auto& golden = GetParam();
  if (!std::filesystem::exists(golden.tokenizer)) GTEST_SKIP() << golden.tokenizer << " is not on this machine";
  const auto tokenizer = Tokenizer::open(golden.tokenizer);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
  const auto cases = read_json_file(golden.cases);
  ASSERT_TRUE(cases.ok()) << cases.error().message();
  ASSERT_FALSE(cases->empty());
  for (const Json& one : *cases) {
    const auto text = one["text"].get<std::string>();
    SCOPED_TRACE(one["text"].dump(-1, ' ', true));
    auto ids = one["ids"].get<Ids>();
    // Cases from a tokenizer with the same pieces whose template puts BOS in front, which this one does not.
    if (one.value("add_special", false) && !tokenizer->adds_bos()) ids.erase(ids.begin());
    EXPECT_EQ(tokenizer->encode(text, one.value("add_special", false)), ids);
    if (one.contains("ids_with_bos")) {
      EXPECT_EQ(tokenizer->encode(text, true), one["ids_with_bos"].get<Ids>());
    }
    if (golden.decoded) {
      EXPECT_EQ(tokenizer->decode(ids), one["decoded"].get<std::string>());
    }
    if (one.contains("decoded_skip_special")) {
      EXPECT_EQ(tokenizer->decode(ids, true), one["decoded_skip_special"].get<std::string>());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shared, TokenizerGoldenFile,
    ::testing::Values(
        GoldenCase{"prose_1k", shared + "/models/prose-3m", shared + "/goldens/tokenizers/prose-1k.json", true},
        GoldenCase{"prose_8k", shared + "/models/prose-34m", shared + "/goldens/tokenizers/prose-8k.json", true},
        GoldenCase{"gpt2", shared + "/tokenizers/gpt-2", shared + "/tokenizers/gpt-2/cases.json", false},
        GoldenCase{"phi3", shared + "/tokenizers/phi-3", shared + "/tokenizers/phi-3/cases.json", false},
        GoldenCase{"pythia", shared + "/tokenizers/pythia", data + "/tokenizers/pythia.json", true},
        GoldenCase{"smollm", shared + "/tokenizers/smollm", data + "/tokenizers/smollm.json", true}),
    [](const auto& row) { return row.param.name; });

// Small models with every kind of normalizer, pre-tokenizer, decoder, template and added token.
TEST(TokenizerGolden, EveryVariantOfProcessingGivesTheSameIdsAndText) {
  const auto file = read_json_file(data + "/tokenizers/variants.json");
  ASSERT_TRUE(file.ok()) << file.error().message();
  for (const Json& variant : (*file)["variants"]) {
    const auto name = variant["name"].get<std::string>();
    Json document = variant;
    document["model"] = (*file)["models"][variant["model"].get<std::string>()];
    const auto tokenizer = Tokenizer::parse(document.dump(), name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
    for (const Json& one : variant["cases"]) {  // [text, ids, ids with special tokens, decoded]
      SCOPED_TRACE(name + ": " + one[0].dump(-1, ' ', true));
      const auto text = one[0].get<std::string>();
      EXPECT_EQ(tokenizer->encode(text), one[1].get<Ids>());
      EXPECT_EQ(tokenizer->encode(text, true), one[2].get<Ids>());
      EXPECT_EQ(tokenizer->decode(one[1].get<Ids>()), one[3].get<std::string>());
    }
  }
}

}  // namespace
}  // namespace fettle::kit
