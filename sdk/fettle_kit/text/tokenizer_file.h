// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/text/added_tokens.h"
#include "fettle_kit/text/bpe.h"
#include "fettle_kit/text/decoder.h"
#include "fettle_kit/text/normalizer.h"
#include "fettle_kit/text/pre_tokenizer.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A tokenizer as its files describe it, section by section; what the sections say of one another is not checked yet.
struct TokenizerFile {
  BpeData model;
  std::vector<AddedToken> added;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::optional<std::vector<Decoder>> decoders;  ///< nullopt: pieces are joined with spaces
  std::vector<std::int32_t> prefix, suffix;      ///< of the post-processor's template for one text
};

Result<TokenizerFile> read_tokenizer_json(const Json& json, const std::string& name);
/// vocab.json and the text of merges.txt, with GPT-2's processing.
Result<TokenizerFile> read_gpt2_files(const Json& vocab, const std::string& vocab_name, std::string_view merges,
                                      const std::string& merges_name);

/// Texts and ids of the special tokens that the files beside tokenizer.json name.
struct SpecialTokens {
  struct Token {
    std::optional<std::string> text;
    std::optional<std::int64_t> id;
  };
  Token bos, eos, unk, pad;
};
/// Missing files are fine, broken ones are not.
Result<SpecialTokens> read_special_tokens(const std::string& folder);

}  // namespace fettle::kit
