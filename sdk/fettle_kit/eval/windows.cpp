// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fettle::kit {
namespace {

std::int64_t code_points(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

/// SentencePiece spells a space U+2581 (three bytes) and a lone byte "<0xNN>".
std::int64_t sentencepiece_bytes(std::string_view piece) {
  if (piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>') return 1;
  std::int64_t spaces = 0;
  for (std::size_t at = piece.find("\u2581"); at != piece.npos; at = piece.find("\u2581", at + 3)) ++spaces;
  return static_cast<std::int64_t>(piece.size()) - 2 * spaces;
}

}  // namespace

Result<TokenSet> windows_of_text(const Tokenizer& tokenizer, std::string_view text, std::int64_t length,
                                 std::int64_t max_windows) {
  if (length < 2)
    return Status(Code::invalid_argument, fmt::format("'length' is {}, expected at least 2", length), "length");
  const std::vector<std::int32_t> ids = tokenizer.encode(text, false);
  const bool bos = tokenizer.adds_bos() && tokenizer.bos();
  const std::int64_t fresh = length - (bos ? 1 : 0);
  std::int64_t windows = static_cast<std::int64_t>(ids.size()) / fresh;
  if (windows == 0)
    return Status(Code::invalid_argument,
                  fmt::format("the text has {} tokens, but one window needs {}; give more text or a "
                              "smaller 'length'",
                              ids.size(), fresh));
  if (max_windows > 0) windows = std::min(windows, max_windows);
  std::vector<std::int32_t> rows;
  rows.reserve(static_cast<std::size_t>(windows * length));
  for (std::int64_t w = 0; w < windows; ++w) {
    if (bos) rows.push_back(*tokenizer.bos());
    rows.insert(rows.end(), ids.begin() + w * fresh, ids.begin() + (w + 1) * fresh);
  }
  return TokenSet(std::move(rows), length, tokenizer.digest(), bos);
}

std::int64_t bytes_of_token(const Tokenizer& tokenizer, std::int32_t id) {
  const TokenInfo* token = tokenizer.token(id);
  if (!token || token->special) return 0;
  if (token->added) return static_cast<std::int64_t>(token->text.size());
  return tokenizer.byte_level() ? code_points(token->text) : sentencepiece_bytes(token->text);
}

}  // namespace fettle::kit
