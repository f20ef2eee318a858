// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/packing.h"

#include "fettle_kit/tensor/every_isa.h"

#include <algorithm>

namespace fettle::kit {
namespace {

/// 32 codes are `bits` words.
template <int bits>
void pack_32(const std::uint8_t* codes, std::uint32_t* words) {
  std::uint64_t stream = 0;
  int filled = 0, word = 0;
  for (int i = 0; i < 32; ++i) {
    stream |= static_cast<std::uint64_t>(codes[i]) << filled;
    filled += bits;
    if (filled < 32) continue;
    words[word++] = static_cast<std::uint32_t>(stream);
    stream >>= 32;
    filled -= 32;
  }
}

template <int bits>
void unpack_32(const std::uint32_t* words, std::uint8_t* codes) {
  std::uint64_t stream = 0;
  int filled = 0, word = 0;
  for (int i = 0; i < 32; ++i) {
    if (filled < bits) {
      stream |= static_cast<std::uint64_t>(words[word++]) << filled;
      filled += 32;
    }
    codes[i] = static_cast<std::uint8_t>(stream & ((1U << bits) - 1));
    stream >>= bits;
    filled -= bits;
  }
}

/// The most frequent width, in lanes: the bytes of a little-endian machine hold two codes each, the first one low.
FETTLE_EVERY_ISA void unpack_nibbles(const std::uint8_t* __restrict bytes, std::uint8_t* __restrict codes,
                                     std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    codes[2 * i] = bytes[i] & 15U;
    codes[2 * i + 1] = bytes[i] >> 4;
  }
}

using Pack = void (*)(const std::uint8_t*, std::uint32_t*);
using Unpack = void (*)(const std::uint32_t*, std::uint8_t*);
constexpr Pack packers[9] = {nullptr,    pack_32<1>, pack_32<2>, pack_32<3>, pack_32<4>,
                             pack_32<5>, pack_32<6>, pack_32<7>, pack_32<8>};
constexpr Unpack unpackers[9] = {nullptr,      unpack_32<1>, unpack_32<2>, unpack_32<3>, unpack_32<4>,
                                 unpack_32<5>, unpack_32<6>, unpack_32<7>, unpack_32<8>};

}  // namespace

void pack_codes(std::span<const std::uint8_t> codes, int bits, std::span<std::uint32_t> words) {
  const Pack pack = packers[bits];
  const std::size_t whole = codes.size() / 32;
  for (std::size_t i = 0; i < whole; ++i)
    pack(codes.data() + i * 32, words.data() + i * static_cast<std::size_t>(bits));
  if (whole * 32 == codes.size()) return;
  std::uint8_t rest[32] = {};
  std::uint32_t last[8] = {};
  std::copy(codes.begin() + static_cast<std::ptrdiff_t>(whole * 32), codes.end(), rest);
  pack(rest, last);
  const std::size_t done = whole * static_cast<std::size_t>(bits);
  std::copy_n(last, words.size() - done, words.data() + done);
}

void unpack_codes(std::span<const std::uint32_t> words, int bits, std::span<std::uint8_t> codes) {
  const Unpack unpack = unpackers[bits];
  const std::size_t whole = codes.size() / 32;
  if (bits == 4) unpack_nibbles(reinterpret_cast<const std::uint8_t*>(words.data()), codes.data(), whole * 16);
  for (std::size_t i = 0; i < whole && bits != 4; ++i)
    unpack(words.data() + i * static_cast<std::size_t>(bits), codes.data() + i * 32);
  if (whole * 32 == codes.size()) return;
  const std::size_t done = whole * static_cast<std::size_t>(bits);
  std::uint32_t last[8] = {};
  std::uint8_t rest[32] = {};
  std::copy_n(words.data() + done, words.size() - done, last);
  unpack(last, rest);
  std::copy_n(rest, codes.size() - whole * 32, codes.data() + whole * 32);
}

std::vector<std::uint32_t> pack_columns(std::span<const std::uint8_t> codes, std::int64_t rows, std::int64_t cols,
                                        int bits) {
  const std::int64_t height = words_for(rows, bits);
  std::vector<std::uint32_t> words(static_cast<std::size_t>(height * cols));
  for (std::int64_t first = 0; first < rows; first += 32) {
    const std::int64_t n = std::min<std::int64_t>(32, rows - first), top = first * bits / 32;
    for (std::int64_t j = 0; j < cols; ++j) {
      std::uint8_t column[32] = {};
      std::uint32_t packed[8] = {};
      for (std::int64_t i = 0; i < n; ++i) column[i] = codes[static_cast<std::size_t>((first + i) * cols + j)];
      packers[bits](column, packed);
      for (std::int64_t i = 0; i < words_for(n, bits); ++i)
        words[static_cast<std::size_t>((top + i) * cols + j)] = packed[i];
    }
  }
  return words;
}

}  // namespace fettle::kit
