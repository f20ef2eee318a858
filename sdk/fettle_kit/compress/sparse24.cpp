// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sparse24.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace fettle::kit {
namespace {

/// Of the four weights of a group, which are not zero (bit j: weight j), to the code of the pair that is kept.
constexpr std::uint8_t kBad = 0xff;
constexpr std::uint8_t kCode[16] = {
    0xe, 0x8,  0x9,  0x4,   // none, 0, 1, 0 and 1
    0xe, 0x8,  0x9,  kBad,  // 2; 0 and 2; 1 and 2
    0xe, 0xc,  0xd,  kBad,  // 3; 0 and 3; 1 and 3
    0xe, kBad, kBad, kBad,
};

bool is_pair(unsigned code) { return (code & 3) < (code >> 2); }

/// Where the word of (row, column) stands among rows * cols / 16 of them.
std::int64_t meta_place(std::int64_t row, std::int64_t column, std::int64_t rows) {
  std::int64_t r = row / 32 * 32 + row % 8 * 4 + row % 32 / 8;
  std::int64_t c = column;
  if (r % 2 == 0 && c % 2 == 1)
    ++r, --c;
  else if (r % 2 == 1 && c % 2 == 0)
    --r, ++c;
  return c / 2 * (2 * rows) + 2 * r + c % 2;
}

/// An odd number of words a row leaves the last column without a partner to be interleaved with.
bool fits(std::int64_t rows, std::int64_t cols) { return rows > 0 && cols > 0 && rows % 32 == 0 && cols % 32 == 0; }

std::uint16_t word(std::span<const std::byte> words, std::int64_t i) {
  std::uint16_t value = 0;
  std::memcpy(&value, words.data() + 2 * i, 2);
  return value;
}

void put(std::vector<std::byte>& words, std::int64_t i, std::uint16_t value) {
  std::memcpy(words.data() + 2 * i, &value, 2);
}

/// The code of the four weights from index `at` on, or kBad.
std::uint8_t code_of(std::span<const std::byte> weights, std::int64_t at) {
  unsigned present = 0;
  for (unsigned j = 0; j < 4; ++j) present |= static_cast<unsigned>((word(weights, at + j) & 0x7fff) != 0) << j;
  return kCode[present];
}

}  // namespace

Status check_2_of_4(std::span<const std::byte> weights, std::int64_t rows, std::int64_t cols, std::string_view name) {
  if (!fits(rows, cols))
    return {Code::invalid_argument,
            fmt::format("tensor '{}' is [{}, {}], but the 2:4 layout needs rows and columns in multiples of 32", name,
                        rows, cols)};
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t first = 0; first < cols; first += 4)
      if (code_of(weights, row * cols + first) == kBad)
        return {Code::invalid_argument,
                fmt::format("tensor '{}' is not 2:4 sparse: row {}, columns {} to {} hold more than two weights that "
                            "are not zero; prune it with pattern 2:4 first",
                            name, row, first, first + 3)};
  return {};
}

Result<Sparse24> compress_2_of_4(std::span<const std::byte> weights, std::int64_t rows, std::int64_t cols,
                                 std::string_view name) {
  FETTLE_TRY(check_2_of_4(weights, rows, cols, name));
  Sparse24 out;
  out.values.resize(static_cast<std::size_t>(rows * cols));
  out.meta.resize(static_cast<std::size_t>(rows * cols / 8));
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t at = 0; at < cols / 16; ++at) {
      unsigned codes = 0;
      for (std::int64_t g = 0; g < 4; ++g) {
        const std::int64_t first = row * cols + at * 16 + g * 4;
        const unsigned code = code_of(weights, first);
        put(out.values, first / 2, word(weights, first + (code & 3)));
        put(out.values, first / 2 + 1, word(weights, first + (code >> 2)));
        codes |= code << (4 * g);
      }
      put(out.meta, meta_place(row, at, rows), static_cast<std::uint16_t>(codes));
    }
  return out;
}

Status check_sparse24(std::span<const std::byte> values, std::span<const std::byte> meta, std::int64_t rows,
                      std::int64_t cols, std::string_view name) {
  if (!fits(rows, cols) || static_cast<std::int64_t>(values.size()) != rows * cols ||
      static_cast<std::int64_t>(meta.size()) != rows * cols / 8)
    return {Code::corrupt_data,
            fmt::format("tensor '{}': {} values and {} words of metadata do not make a 2:4 matrix [{}, {}]", name,
                        values.size() / 2, meta.size() / 2, rows, cols)};
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t at = 0; at < cols / 16; ++at) {
      const unsigned codes = word(meta, meta_place(row, at, rows));
      for (std::int64_t g = 0; g < 4; ++g)
        if (const unsigned code = codes >> (4 * g) & 0xf; !is_pair(code))
          return {Code::corrupt_data, fmt::format("tensor '{}': row {}, columns {} to {}: {} is no code of two of four",
                                                  name, row, at * 16 + g * 4, at * 16 + g * 4 + 3, code)};
    }
  return {};
}

void expand_2_of_4(std::span<const std::byte> values, std::span<const std::byte> meta, std::int64_t rows,
                   std::int64_t cols, std::int64_t first, std::span<std::uint16_t> out) {
  std::fill(out.begin(), out.end(), std::uint16_t{0});
  const auto count = static_cast<std::int64_t>(out.size()) / cols;
  for (std::int64_t row = 0; row < count; ++row)
    for (std::int64_t at = 0; at < cols / 16; ++at) {
      const unsigned codes = word(meta, meta_place(first + row, at, rows));
      for (std::int64_t g = 0; g < 4; ++g) {
        const unsigned code = codes >> (4 * g) & 0xf;
        const std::int64_t kept = (first + row) * cols / 2 + at * 8 + g * 2;
        std::uint16_t* const w = out.data() + row * cols + at * 16 + g * 4;
        const std::uint16_t a = word(values, kept), b = word(values, kept + 1);
        if ((a & 0x7fff) != 0) w[code & 3] = a;
        if ((b & 0x7fff) != 0) w[code >> 2] = b;
      }
    }
}

}  // namespace fettle::kit
