// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fettle::kit {

/// 32-bit words that hold `count` codes of `bits` bits.
constexpr std::int64_t words_for(std::int64_t count, int bits) { return (count * bits + 31) / 32; }

/// A plain little-endian bit stream: code i is bits [i * bits, (i + 1) * bits) of the words. `words` has
/// words_for(codes.size(), bits); left over bits are 0. bits 1 to 8, codes below 2^bits.
void pack_codes(std::span<const std::uint8_t> codes, int bits, std::span<std::uint32_t> words);
void unpack_codes(std::span<const std::uint32_t> words, int bits, std::span<std::uint8_t> codes);

/// The same for the columns of codes [rows, cols]: words [words_for(rows, bits), cols], each column a stream of its
/// own.
std::vector<std::uint32_t> pack_columns(std::span<const std::uint8_t> codes, std::int64_t rows, std::int64_t cols,
                                        int bits);

}  // namespace fettle::kit
