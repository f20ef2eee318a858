// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/byte_level.h"

#include "fettle_kit/text/unicode.h"

#include <cstddef>

namespace fettle::kit {

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet = [] {
    ByteAlphabet a;
    a.byte_of.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool visible = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const char32_t c = visible ? static_cast<char32_t>(b) : next++;
      a.char_of[static_cast<std::size_t>(b)] = c;
      a.byte_of[c] = b;
    }
    return a;
  }();
  return alphabet;
}

void append_visible(std::string& out, std::string_view bytes) {
  const ByteAlphabet& alphabet = byte_alphabet();
  for (const char b : bytes) unicode::append(out, alphabet.char_of[static_cast<unsigned char>(b)]);
}

void append_bytes(std::string& out, std::string_view visible) {
  const ByteAlphabet& alphabet = byte_alphabet();
  const std::size_t before = out.size();
  for (std::size_t i = 0; i < visible.size(); i += unicode::length_of(visible[i])) {
    const char32_t c = unicode::code_point(visible, i);
    const int b = c < alphabet.byte_of.size() ? alphabet.byte_of[c] : -1;
    if (b < 0) {
      out.resize(before);
      out += visible;
      return;
    }
    out += static_cast<char>(b);
  }
}

}  // namespace fettle::kit
