// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/awq_layout.h"

#include <gtest/gtest.h>

#include <cstring>

namespace fettle::kit {
namespace {

std::uint32_t word(const std::vector<std::byte>& bytes, std::size_t index) {
  std::uint32_t w = 0;
  std::memcpy(&w, bytes.data() + index * 4, 4);
  return w;
}

/// The published order of nibbles, on codes 3 8 13 2 7 12 1 6 of eight outputs.
TEST(AwqLayout, PacksOutputsInItsOwnOrder) {
  GridScheme s;
  s.group_size = 2;
  CodedMatrix m(8, 2, s);
  const std::uint8_t codes[8] = {3, 8, 13, 2, 7, 12, 1, 6};
  for (std::int64_t i = 0; i < 8; ++i) {
    m.codes[static_cast<std::size_t>(i * 2)] = codes[i];
    m.codes[static_cast<std::size_t>(i * 2 + 1)] = static_cast<std::uint8_t>(i);
    m.set(i, 0, {0.5F * static_cast<float>(i + 1), codes[7 - i]});
  }
  const auto bytes = pack_awq(m);
  EXPECT_EQ(word(bytes[0], 0), 0x6c2817d3U);
  EXPECT_EQ(word(bytes[0], 1), 0x75316420U);
  EXPECT_EQ(word(bytes[1], 0), 0x3d7182c6U);  // zeros as they are, not less one
  EXPECT_EQ(word(bytes[2], 0), 0x3c003800U);  // halves 0.5, 1
}

}  // namespace
}  // namespace fettle::kit
