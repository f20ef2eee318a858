// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace fettle::kit {

/// The visible alphabet of byte-level vocabularies (Radford et al. 2019, the code of GPT-2): printable bytes stand for
/// themselves as code points, the other 68 for U+0100.. in increasing order, so that no stored piece has white space.
struct ByteAlphabet {
  std::array<char32_t, 256> char_of{};
  std::array<int, 0x144> byte_of{};  ///< -1: not in the alphabet
};
const ByteAlphabet& byte_alphabet();

/// Appends `bytes` in the visible alphabet.
void append_visible(std::string& out, std::string_view bytes);
/// Appends the bytes that `visible` (valid UTF-8) stands for; if any character is not of the alphabet, `visible`
/// itself.
void append_bytes(std::string& out, std::string_view visible);

}  // namespace fettle::kit
