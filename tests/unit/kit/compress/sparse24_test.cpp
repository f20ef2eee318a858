// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sparse24.h"

#include "fettle_kit/io/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

namespace fettle::kit {
namespace {

using Words = std::vector<std::uint16_t>;

std::span<const std::byte> bytes(const Words& words) { return std::as_bytes(std::span(words)); }

Words words(const std::vector<std::byte>& bytes) {
  Words out(bytes.size() / 2);
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

Words from_hex(const std::string& text) {
  Words words;
  for (std::size_t i = 0; i < text.size(); i += 4)
    words.push_back(static_cast<std::uint16_t>(std::stoul(text.substr(i, 4), nullptr, 16)));
  return words;
}

/// tests/data/sparse24.json: what PyTorch makes of a matrix; the file says how.
struct Golden {
  Words weights, values, meta;
  Golden() {
    const auto json = read_json_file(FETTLE_TEST_DATA "/sparse24.json");
    weights = from_hex(json->at("weights")), values = from_hex(json->at("values")), meta = from_hex(json->at("meta"));
  }
};

TEST(Sparse24, MakesTheValuesAndMetadataOfPyTorch) {
  const Golden golden;
  const auto made = compress_2_of_4(bytes(golden.weights), 64, 64, "w");
  ASSERT_TRUE(made.ok()) << made.error().message();
  EXPECT_EQ(words(made->values), golden.values);
  EXPECT_EQ(words(made->meta), golden.meta);
}

TEST(Sparse24, GivesTheWeightsBack) {
  Golden golden;
  ASSERT_TRUE(check_sparse24(bytes(golden.values), bytes(golden.meta), 64, 64, "w").ok());
  for (std::uint16_t& w : golden.weights)
    if (w == 0x8000) w = 0;  // PyTorch's product with a mask leaves -0
  Words all(64 * 64);
  expand_2_of_4(bytes(golden.values), bytes(golden.meta), 64, 64, 0, all);
  EXPECT_EQ(all, golden.weights);
  Words some(3 * 64);
  expand_2_of_4(bytes(golden.values), bytes(golden.meta), 64, 64, 37, some);
  EXPECT_TRUE(std::equal(some.begin(), some.end(), golden.weights.begin() + 37 * 64));
}

TEST(Sparse24, NamesTheFirstGroupThatIsTooFull) {
  Words w(32 * 32);
  w[5 * 32 + 8] = w[5 * 32 + 9] = w[5 * 32 + 11] = 0x3f80;
  EXPECT_EQ(
      compress_2_of_4(bytes(w), 32, 32, "w").error().message(),
      "tensor 'w' is not 2:4 sparse: row 5, columns 8 to 11 hold more than two weights that are not zero; prune it "
      "with pattern 2:4 first");
}

TEST(Sparse24, IsAlongTheRow) {
  const Golden golden;
  Words transposed(64 * 64);
  for (std::size_t i = 0; i < 64; ++i)
    for (std::size_t j = 0; j < 64; ++j) transposed[j * 64 + i] = golden.weights[i * 64 + j];
  EXPECT_TRUE(check_2_of_4(bytes(golden.weights), 64, 64, "w").ok());
  EXPECT_FALSE(check_2_of_4(bytes(transposed), 64, 64, "w").ok());
}

TEST(Sparse24, RefusesSizesThatTheLayoutDoesNotHave) {
  EXPECT_EQ(compress_2_of_4(bytes(Words(32 * 48)), 32, 48, "w").error().message(),
            "tensor 'w' is [32, 48], but the 2:4 layout needs rows and columns in multiples of 32");
}

TEST(Sparse24, RefusesMetadataOfAnotherSize) {
  EXPECT_EQ(check_sparse24(bytes(Words(32 * 16)), bytes(Words(63)), 32, 32, "w").message(),
            "tensor 'w': 512 values and 63 words of metadata do not make a 2:4 matrix [32, 32]");
}

TEST(Sparse24, RefusesACodeThatIsNoPair) {
  Words meta(64, 0x4444);
  meta[0] = 0x4440;
  EXPECT_EQ(check_sparse24(bytes(Words(32 * 16)), bytes(meta), 32, 32, "w").message(),
            "tensor 'w': row 0, columns 0 to 3: 0 is no code of two of four");
}

}  // namespace
}  // namespace fettle::kit
