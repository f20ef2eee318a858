// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// What a token of the vocabulary is for; the values are those of tokenizer.ggml.token_type.
enum class PieceKind : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// A token of the vocabulary, as tokenizer.json knows it.
struct TokenInfo {
  std::string text;         ///< stored form: byte-level characters, or U+2581 for spaces
  bool added = false;       ///< in added_tokens: matched before the model
  bool special = false;     ///< an added token flagged special
  bool normalized = false;  ///< an added token that is looked for in the normalized text
  PieceKind kind = PieceKind::normal;
};

/// A tokenizer read from tokenizer.json: byte-level BPE (GPT-2, Llama 3, Qwen, ...) and SentencePiece-style BPE with
/// byte fallback (Llama 2, Mistral, Gemma, Phi-3), with the normalizers, pre-tokenizers, added tokens, post-processors
/// and decoders those use. Anything else is refused by name (unsupported); a file that contradicts itself is
/// corrupt_data. Gives the ids that the Python package `tokenizers` gives. Immutable. [any thread]
class Tokenizer {
 public:
  /// `folder` holds tokenizer.json, or vocab.json and merges.txt. Which tokens are BOS, EOS, ... comes from
  /// tokenizer_config.json, special_tokens_map.json, config.json and generation_config.json, the first that says it.
  static Result<Tokenizer> open(const std::string& folder);
  /// `name` is what messages call the text.
  static Result<Tokenizer> parse(std::string_view tokenizer_json, std::string_view name);
  /// From vocab.json + merges.txt, the older form of GPT-2.
  static Result<Tokenizer> open_gpt2(const std::string& vocab_json, const std::string& merges_txt);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  struct EncodeOptions {
    bool add_special = false;           ///< what the post-processor's template adds (BOS, EOS)
    std::size_t max_tokens = SIZE_MAX;  ///< stop there: the ids are the first of those the whole text has
    std::function<bool()> cancelled;    ///< polled every few thousand words; true: give up with Code::cancelled
  };
  /// Text to ids. Invalid UTF-8 is replaced by U+FFFD first. unsupported: a split pattern that backtracks without end
  /// on this text; invalid_argument: 2 GiB of text or more at once.
  Result<std::vector<std::int32_t>> try_encode(std::string_view text, const EncodeOptions& options) const;
  /// The same where failure would be a surprise: throws std::runtime_error with the message.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special = false) const;
  /// Ids without a token are left out, as are special tokens if asked.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const;

  std::int32_t vocab_size() const;                ///< largest id + 1
  const TokenInfo* token(std::int32_t id) const;  ///< null for an id without a token
  std::optional<std::int32_t> id(std::string_view text) const;
  std::optional<std::int32_t> bos() const;
  std::optional<std::int32_t> eos() const;
  std::optional<std::int32_t> unk() const;
  std::optional<std::int32_t> pad() const;
  /// What encode(..., true) puts in front and behind.
  std::span<const std::int32_t> template_prefix() const;
  std::span<const std::int32_t> template_suffix() const;
  /// True if encode(..., true) puts BOS in front.
  bool adds_bos() const;
  /// True if encode(..., true) puts EOS behind.
  bool adds_eos() const;

  bool byte_level() const;  ///< false: SentencePiece-style
  bool byte_fallback() const;
  /// True if a word that is in the vocabulary is taken whole, whatever the merges say (Llama 3).
  bool ignores_merges() const;
  /// True if text gets a space in front that it does not have (the dummy prefix of SentencePiece, add_prefix_space).
  bool adds_dummy_prefix() const;
  /// True if digits are split off before the split pattern is applied (SmolLM, StarCoder).
  bool splits_digits() const;
  /// Merges in rank order, each "left right".
  std::vector<std::string> merges() const;
  /// For SentencePiece-style GGUF, by id: minus the rank of the first merge that makes the piece, so that a larger
  /// score merges first, as there; 0 for a piece that no merge makes.
  std::vector<float> scores() const;
  /// The last split pattern as tokenizer.json spells it, GPT-2's if ByteLevel brings its own, "" if none: tells GGUF
  /// pre-tokenizers apart.
  std::string split_pattern() const;
  /// "sha256:..." over vocabulary, merges, added tokens and the processing that decides ids; two files that tokenize
  /// alike but differ in decoder, padding or truncation settings have the same digest.
  const std::string& digest() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fettle::kit
