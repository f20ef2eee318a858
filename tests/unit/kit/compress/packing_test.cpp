// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fettle::kit {
namespace {

struct GoldenWords {
  int bits;
  std::vector<std::uint32_t> words;
};

class Packing : public ::testing::TestWithParam<GoldenWords> {};

/// The published words (formats/gptq.md, section 3) for codes (5 i + 3) mod 2^bits, checked with the upstream packers.
TEST_P(Packing, GivesTheGoldenWords) {
  const auto& [bits, golden] = GetParam();
  std::vector<std::uint8_t> codes(32);
  for (std::size_t i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>((5 * i + 3) % (std::size_t{1} << bits));
  std::vector<std::uint32_t> words(golden.size());
  pack_codes(codes, bits, words);
  EXPECT_EQ(words, golden);
  EXPECT_EQ(pack_columns(codes, 32, 1, bits), golden);
}

INSTANTIATE_TEST_SUITE_P(Rows, Packing,
                         ::testing::Values(GoldenWords{2, {0x93939393, 0x93939393}},
                                           GoldenWords{3, {0x43c67543, 0x7543c675, 0xc67543c6}},
                                           GoldenWords{4, {0x61c72d83, 0xe94fa50b, 0x61c72d83, 0xe94fa50b}},
                                           GoldenWords{8,
                                                       {0x120d0803, 0x26211c17, 0x3a35302b, 0x4e49443f, 0x625d5853,
                                                        0x76716c67, 0x8a85807b, 0x9e99948f}}),
                         [](const auto& row) { return "bits_" + std::to_string(row.param.bits); });

TEST(PackedColumns, ComesBackForEveryWidthAndLength) {
  for (int bits = 1; bits <= 8; ++bits)
    for (std::size_t n = 0; n <= 70; ++n) {
      std::vector<std::uint8_t> codes(n), back(n);
      for (std::size_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>((i * 37 + 11) & ((1U << bits) - 1));
      std::vector<std::uint32_t> words(static_cast<std::size_t>(words_for(static_cast<std::int64_t>(n), bits)));
      pack_codes(codes, bits, words);
      unpack_codes(words, bits, back);
      ASSERT_EQ(back, codes) << bits << " bits, " << n << " codes";
    }
}

TEST(PackedColumns, PacksColumnsAsStreamsOfTheirOwn) {
  constexpr std::int64_t rows = 45, cols = 3;
  for (const int bits : {2, 3, 4, 8}) {
    std::vector<std::uint8_t> codes(rows * cols);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>((i * 7) & ((1U << bits) - 1));
    const auto words = pack_columns(codes, rows, cols, bits);
    ASSERT_EQ(words.size(), static_cast<std::size_t>(words_for(rows, bits) * cols));
    for (std::size_t j = 0; j < cols; ++j) {
      std::vector<std::uint8_t> column;
      for (std::size_t i = 0; i < rows; ++i) column.push_back(codes[i * cols + j]);
      std::vector<std::uint32_t> alone(static_cast<std::size_t>(words_for(rows, bits)));
      pack_codes(column, bits, alone);
      for (std::size_t k = 0; k < alone.size(); ++k) ASSERT_EQ(words[k * cols + j], alone[k]);
    }
  }
}

}  // namespace
}  // namespace fettle::kit
