// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_blocks.h"

#include "fettle_kit/tensor/block_codec.h"
#include "fettle_kit/tensor/half.h"

#include "unit/kit/compress/weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iomanip>
#include <span>
#include <sstream>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

using test::kCols;
using test::kRows;

std::uint64_t fnv1a(const std::vector<std::byte>& bytes) {
  std::uint64_t h = 0xCBF29CE484222325u;
  for (const std::byte b : bytes) h = (h ^ std::to_integer<std::uint64_t>(b)) * 0x100000001B3u;
  return h;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte b : bytes) {
    out += "0123456789abcdef"[std::to_integer<int>(b) >> 4];
    out += "0123456789abcdef"[std::to_integer<int>(b) & 15];
  }
  return out;
}

using Quantizer = void (*)(DType, const float*, std::byte*, std::int64_t, std::int64_t, const float*);

std::vector<std::byte> quantized(Quantizer quantize, DType type, const std::vector<float>& x, std::int64_t cols,
                                 const float* importance) {
  std::vector<std::byte> out(bytes_of(type, x.size()));
  quantize(type, x.data(), out.data(), static_cast<std::int64_t>(x.size()) / cols, cols, importance);
  return out;
}

/// Every line of tests/data/gguf/goldens.txt: what the real ggml made of the same weights.
void expect_goldens(Quantizer quantize) {
  std::ifstream file(FETTLE_TEST_DATA "/gguf/goldens.txt");
  ASSERT_TRUE(file) << "tests/data/gguf/goldens.txt is missing";
  const std::vector<float> importance = test::importance();
  int checked = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, distribution, mode, digest, block;
    words >> name >> distribution >> mode >> digest >> block;
    if (name == "fp4-scale") continue;
    const DTypeInfo* type = find_dtype_by_name(name);
    ASSERT_TRUE(type) << line;
    const auto bytes = quantized(quantize, type->dtype, test::weights(distribution), kCols,
                                 mode == "weighted" ? importance.data() : nullptr);
    EXPECT_EQ(hex(std::span(bytes).first(static_cast<std::size_t>(type->block_bytes))), block)
        << name << " " << distribution << " " << mode;
    std::ostringstream ours;
    ours << std::hex << std::setw(16) << std::setfill('0') << fnv1a(bytes);
    EXPECT_EQ(ours.str(), digest) << name << " " << distribution << " " << mode;
    ++checked;
  }
  EXPECT_EQ(checked, 18 * 6 * 2);
}

TEST(BlockReference, EqualsGgmlByteForByte) { expect_goldens(&encode_blocks_reference); }

TEST(QuantizeRows, EqualsGgmlByteForByte) { expect_goldens(&quantize_rows); }

TEST(BlockReference, Mxfp4ScaleEqualsGgmlNearPowersOfTwo) {
  std::vector<float> x;
  const auto add = [&](float amax) {
    x.resize(x.size() + 32);
    x[x.size() - 32 + 5] = amax;
  };
  for (int exponent = -120; exponent <= 120; exponent += 3) {
    const float at = std::ldexp(1.0f, exponent);
    float down = at;
    for (int i = 0; i < 4; ++i) add(down = std::nextafter(down, 0.0f));
    add(at);
    add(std::nextafter(at, INFINITY));
  }
  std::ifstream file(FETTLE_TEST_DATA "/gguf/goldens.txt");
  std::string line, digest;
  while (std::getline(file, line))
    if (line.starts_with("fp4-scale ")) digest = line.substr(10);
  std::ostringstream ours;
  ours << std::hex << std::setw(16) << std::setfill('0')
       << fnv1a(quantized(&encode_blocks_reference, DType::mxfp4, x, 32, nullptr));
  EXPECT_EQ(ours.str(), digest);
}

}  // namespace
}  // namespace fettle::kit
