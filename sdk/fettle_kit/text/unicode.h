// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// Code points of UTF-8 text that is known to be valid (see is_utf8 in io/message.h), and their classes.
namespace fettle::kit::unicode {

/// Bytes of the code point that starts with `lead`.
inline std::size_t length_of(char lead) {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/// The code point at text[at] in valid UTF-8.
inline char32_t code_point(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + i])); };
  switch (length_of(text[at])) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
}

/// Where the code point that ends at `end` (> 0) starts.
inline std::size_t start_before(std::string_view text, std::size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

void append(std::string& out, char32_t code_point);

/// Each maximal invalid part becomes U+FFFD (Unicode 15, section 3.9, table 3-8).
std::string replace_invalid_utf8(std::string_view text);

bool is_white_space(char32_t c);  ///< property White_Space
bool is_numeric(char32_t c);      ///< general category N
bool is_punctuation(char32_t c);  ///< general category P, or ASCII punctuation
bool is_mark(char32_t c);         ///< general category M
bool is_word(char32_t c);         ///< \w of Unicode TR18: alphabetic, mark, decimal digit, connector, join control

std::string lowercase(std::string_view text);
std::string without_marks(std::string_view text);
enum class Form { nfc, nfd, nfkc, nfkd };
std::string normalized(std::string_view text, Form form);

}  // namespace fettle::kit::unicode
