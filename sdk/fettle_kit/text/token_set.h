// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fettle/result.h"

namespace fettle::kit {

/// The content of a "tokens" artifact: `sequences` rows of `length` token ids, cut from text. On disk a folder with
/// tokens.safetensors: tensor "ids" [sequences, length] i32, metadata "tokenizer" (its digest) and "bos" ("true" if each
/// row starts with BOS). Immutable. [any thread]
class TokenSet {
 public:
  TokenSet(std::vector<std::int32_t> ids, std::int64_t length, std::string tokenizer_digest, bool bos);
  static Result<TokenSet> open(const std::string& folder);
  Status save(const std::string& folder) const;

  std::int64_t sequences() const { return length_ == 0 ? 0 : static_cast<std::int64_t>(ids_.size()) / length_; }
  std::int64_t length() const { return length_; }
  std::span<const std::int32_t> sequence(std::int64_t i) const {
    return std::span(ids_).subspan(static_cast<std::size_t>(i * length_), static_cast<std::size_t>(length_));
  }
  std::span<const std::int32_t> ids() const { return ids_; }
  const std::string& tokenizer_digest() const { return tokenizer_; }
  bool bos() const { return bos_; }

 private:
  std::vector<std::int32_t> ids_;
  std::int64_t length_ = 0;
  std::string tokenizer_;
  bool bos_ = false;
};

/// The concatenated UTF-8 text of a "text" artifact: a folder of files (and links to files), taken in name order, or a
/// single file; .txt and anything else as it is, .jsonl by its "text" fields, .xz and .gz refused with the remedy.
Result<std::string> read_text(const std::string& path);

}  // namespace fettle::kit
