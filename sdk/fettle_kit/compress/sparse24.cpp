// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sparse24.h"

#include <fmt/format.h>

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
std::size_t meta_place(std::int64_t row, std::int64_t column, std::int64_t rows) {
  std::int64_t r = row / 32 * 32 + row % 8 * 4 + row % 32 / 8;
  std::int64_t c = column;
  if (r % 2 == 0 && c % 2 == 1)
    ++r, --c;
  else if (r % 2 == 1 && c % 2 == 0)
    --r, ++c;
  return static_cast<std::size_t>(c / 2 * (2 * rows) + 2 * r + c % 2);
}

/// An odd number of words a row leaves the last column without a partner to be interleaved with.
bool fits(std::int64_t rows, std::int64_t cols) { return rows > 0 && cols > 0 && rows % 32 == 0 && cols % 32 == 0; }

}  // namespace

Result<Sparse24> compress_2_of_4(std::span<const std::uint16_t> weights, std::int64_t rows, std::int64_t cols,
                                 std::string_view name) {
  if (!fits(rows, cols))
    return Status(Code::invalid_argument,
                  fmt::format("tensor '{}' is [{}, {}], but the 2:4 layout needs rows and columns in multiples of 32",
                              name, rows, cols));
  Sparse24 out;
  out.values.resize(static_cast<std::size_t>(rows * cols / 2));
  out.meta.resize(static_cast<std::size_t>(rows * cols / 16));
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t word = 0; word < cols / 16; ++word) {
      unsigned codes = 0;
      for (std::int64_t g = 0; g < 4; ++g) {
        const std::int64_t first = word * 16 + g * 4;
        const std::uint16_t* const w = weights.data() + row * cols + first;
        unsigned present = 0;
        for (unsigned j = 0; j < 4; ++j) present |= static_cast<unsigned>((w[j] & 0x7fff) != 0) << j;
        const unsigned code = kCode[present];
        if (code == kBad)
          return Status(
              Code::invalid_argument,
              fmt::format("tensor '{}' is not 2:4 sparse: row {}, columns {} to {} hold more than two weights "
                          "that are not zero; prune it with pattern 2:4 first",
                          name, row, first, first + 3));
        std::uint16_t* const kept = out.values.data() + row * cols / 2 + first / 2;
        kept[0] = w[code & 3], kept[1] = w[code >> 2];
        codes |= code << (4 * g);
      }
      out.meta[meta_place(row, word, rows)] = static_cast<std::uint16_t>(codes);
    }
  return out;
}

Result<std::vector<std::uint16_t>> expand_2_of_4(std::span<const std::uint16_t> values,
                                                 std::span<const std::uint16_t> meta, std::int64_t rows,
                                                 std::int64_t cols, std::string_view name) {
  if (!fits(rows, cols) || static_cast<std::int64_t>(values.size()) != rows * cols / 2 ||
      static_cast<std::int64_t>(meta.size()) != rows * cols / 16)
    return Status(Code::corrupt_data,
                  fmt::format("tensor '{}': {} values and {} words of metadata do not make a 2:4 matrix [{}, {}]", name,
                              values.size(), meta.size(), rows, cols));
  std::vector<std::uint16_t> out(static_cast<std::size_t>(rows * cols));
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t word = 0; word < cols / 16; ++word) {
      const unsigned codes = meta[meta_place(row, word, rows)];
      for (std::int64_t g = 0; g < 4; ++g) {
        const unsigned code = codes >> (4 * g) & 0xf;
        if (!is_pair(code))
          return Status(Code::corrupt_data,
                        fmt::format("tensor '{}': row {}, columns {} to {}: {} is no code of two of four", name, row,
                                    word * 16 + g * 4, word * 16 + g * 4 + 3, code));
        const std::uint16_t* const kept = values.data() + row * cols / 2 + word * 8 + g * 2;
        std::uint16_t* const w = out.data() + row * cols + word * 16 + g * 4;
        w[code & 3] = (kept[0] & 0x7fff) != 0 ? kept[0] : std::uint16_t{0};
        w[code >> 2] = (kept[1] & 0x7fff) != 0 ? kept[1] : std::uint16_t{0};
      }
    }
  return out;
}

}  // namespace fettle::kit
