// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fettle/result.h"

namespace fettle::kit {

/// A token of the vocabulary, as tokenizer.json knows it.
struct TokenInfo {
  std::string text;       ///< stored form: byte-level characters or U+2581 for spaces
  bool added = false;     ///< in added_tokens: matched before the model
  bool special = false;   ///< an added token flagged special
  bool normalized = false;
};

/// A tokenizer read from tokenizer.json: byte-level BPE (GPT-2, Llama 3, Qwen, ...) and SentencePiece-style BPE with byte
/// fallback (Llama 2, Mistral, Gemma, Phi-3), with the normalizers, pre-tokenizers, added tokens, post-processors and
/// decoders those use. Anything else is refused by name. Immutable. [any thread]
class Tokenizer {
 public:
  /// `folder` holds tokenizer.json (and maybe tokenizer_config.json, config.json).
  static Result<Tokenizer> open(const std::string& folder);
  static Result<Tokenizer> parse(std::string_view tokenizer_json, std::string_view name);
  /// From vocab.json + merges.txt, the older form of GPT-2.
  static Result<Tokenizer> open_gpt2(const std::string& vocab_json, const std::string& merges_txt);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Text to ids. Invalid UTF-8 is replaced by U+FFFD first. add_special: what the post-processor's template adds (BOS).
  std::vector<std::int32_t> encode(std::string_view text, bool add_special = false) const;
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const;

  std::int32_t vocab_size() const;  ///< largest id + 1
  const TokenInfo* token(std::int32_t id) const;  ///< null for an id without a token
  std::optional<std::int32_t> id(std::string_view text) const;
  std::optional<std::int32_t> bos() const;
  std::optional<std::int32_t> eos() const;
  std::optional<std::int32_t> unk() const;
  std::optional<std::int32_t> pad() const;
  /// True if encode(..., true) puts BOS in front.
  bool adds_bos() const;
  bool byte_level() const;  ///< false: SentencePiece-style
  /// Merges in rank order, each "left right".
  std::vector<std::string> merges() const;
  /// The split pattern as tokenizer.json spells it, "" if none: tells GGUF pre-tokenizers apart.
  std::string split_pattern() const;
  /// "sha256:..." over vocabulary, merges, added tokens and the processing that decides ids; two files that tokenize
  /// alike but differ in padding or truncation settings have the same digest.
  const std::string& digest() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fettle::kit
