// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fettle::kit {

/// The content of a "tokens" artifact: `sequences` rows of `length` token ids, cut from text. On disk a folder with
/// tokens.safetensors: tensor "ids" [sequences, length] i32, metadata "tokenizer" (its digest) and "bos" ("true" if
/// each row starts with BOS). Immutable. [any thread]
class TokenSet {
 public:
  /// ids: row after row, a whole number of rows of `length` > 0.
  TokenSet(std::vector<std::int32_t> ids, std::int64_t length, std::string tokenizer_digest, bool bos);
  /// corrupt_data if the file is not as described above, or holds a negative id.
  static Result<TokenSet> open(const std::string& folder);
  Status save(const std::string& folder) const;

  std::int64_t sequences() const { return length_ == 0 ? 0 : static_cast<std::int64_t>(ids_.size()) / length_; }
  std::int64_t length() const { return length_; }
  /// A copy of `count` sequences from `first` on.
  TokenSet part(std::int64_t first, std::int64_t count) const;
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

/// The text of a "text" artifact: a single file, or a folder whose files (and links to files, and folders in it) are
/// taken in the order of their names, hidden ones left out; .jsonl by its "text" fields, with a blank line between
/// records, anything else as it is, .xz, .gz, .zst and .bz2 refused with the remedy. A line end comes between files
/// where the first lacks one. Whether it is UTF-8 is not checked. [any thread]
Result<std::string> read_text(const std::string& path);

}  // namespace fettle::kit
