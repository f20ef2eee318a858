// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_blocks.h"

#include "fettle_kit/kernels/kernels.h"
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

std::string hex_digest(const std::vector<std::byte>& bytes) {
  std::ostringstream out;
  out << std::hex << std::setw(16) << std::setfill('0') << fnv1a(bytes);
  return out.str();
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
    if (name == "fp4-scale" || name == "read") continue;
    const DTypeInfo* type = find_dtype_by_name(name);
    ASSERT_TRUE(type) << line;
    const auto bytes = quantized(quantize, type->dtype, test::weights(distribution), kCols,
                                 mode == "weighted" ? importance.data() : nullptr);
    EXPECT_EQ(hex(std::span(bytes).first(static_cast<std::size_t>(type->block_bytes))), block)
        << name << " " << distribution << " " << mode;
    EXPECT_EQ(hex_digest(bytes), digest) << name << " " << distribution << " " << mode;
    ++checked;
  }
  EXPECT_EQ(checked, 25 * 6 * 2 - 3 * 6 - 2);  // three types need an importance matrix; one set is left out
}

TEST(BlockReference, EqualsGgmlByteForByte) { expect_goldens(&encode_blocks_reference); }

TEST(QuantizeRows, EqualsGgmlByteForByte) { expect_goldens(&quantize_rows); }

TEST(BlockCodec, ReadsRandomBlocksAsGgmlDoes) {
  std::ifstream file(FETTLE_TEST_DATA "/gguf/goldens.txt");
  int checked = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, kind, digest;
    words >> name >> kind >> digest;
    if (name != "read") continue;
    const DTypeInfo* type = find_dtype_by_name(kind);
    ASSERT_TRUE(type) << line;
    constexpr std::size_t blocks = 256;
    const auto size = static_cast<std::size_t>(type->block_bytes);
    std::vector<std::byte> bytes(blocks * size);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(test::uniform(7, i + 1) * 256);
    const std::size_t exponent = type->dtype == DType::iq1_m ? 55 : 1;  // keeps the scale of the block finite
    for (std::size_t b = 0; b < blocks; ++b) bytes[b * size + exponent] &= std::byte{0xBF};
    std::vector<float> values(blocks * static_cast<std::size_t>(type->block_elems));
    type->to_f32(bytes.data(), values.data(), values.size());
    std::vector<std::byte> out(values.size() * sizeof(float));
    std::memcpy(out.data(), values.data(), out.size());
    EXPECT_EQ(hex_digest(out), digest) << kind;
    ++checked;
  }
  EXPECT_EQ(checked, 7);
}

/// Every instruction set of this machine, many shapes: whole and broken batches, rows of several blocks.
TEST(QuantizeRows, EveryInstructionSetEqualsTheReference) {
  constexpr std::pair<std::int64_t, std::int64_t> shapes[] = {{1, 256}, {3, 256}, {17, 512}, {5, 1280}, {33, 768}};
  for (const DTypeInfo& type : all_dtypes()) {
    if (!has_block_codec(type.dtype)) continue;
    for (const auto& [rows, cols] : shapes)
      for (const std::string_view distribution : test::kDistributions)
        for (const bool weighted : {false, true}) {
          if (!weighted && needs_importance(type.dtype)) continue;
          const auto x = test::weights(distribution, rows, cols);
          const auto importance = test::importance(cols);
          const float* q = weighted ? importance.data() : nullptr;
          std::vector<std::byte> expected(bytes_of(type.dtype, x.size())), got(expected.size());
          encode_blocks_reference(type.dtype, x.data(), expected.data(), rows, cols, q);
          for (const KernelTable* isa : usable_kernels()) {
            quantize_rows_with(isa->vectors, type.dtype, x.data(), got.data(), rows, cols, q);
            EXPECT_TRUE(expected == got) << isa->name << " " << type.name << " " << distribution << " " << rows << "x"
                                         << cols << (weighted ? " weighted" : "");
          }
        }
  }
}

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
  EXPECT_EQ(hex_digest(quantized(&encode_blocks_reference, DType::mxfp4, x, 32, nullptr)), digest);
}

/// Rows that drive the searches to their edges: nothing positive and many zeros, neighbours 30 orders of magnitude
/// apart, values under the threshold of zero, constants.
std::vector<float> extreme_weights(std::int64_t rows, std::int64_t cols) {
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double u = test::uniform(5, i + 1), n = test::normal(6, i);
    const std::size_t kind = i / 256 % 8;
    double v = 0;
    if (kind == 0) v = u < 0.5 ? 0 : -u;
    if (kind == 1) v = u < 0.1 ? n * 1e15 : n * 1e-15;
    if (kind == 2) v = n * 1e-15;
    if (kind == 3) v = u < 0.9 ? -1e-9 * u : -1;
    if (kind == 4) v = -0.75;
    if (kind == 5) v = i / 32 % 2 == 0 ? n * 1e-8 : n;
    if (kind == 6) v = u < 0.03 ? 1e-30 : -1e3 * u;
    if (kind == 7) v = n * 1e4;
    x[i] = static_cast<float>(v);
  }
  return x;
}

TEST(QuantizeRows, EveryInstructionSetEqualsTheReferenceAtTheEdges) {
  const auto x = extreme_weights(16, 1024);
  const auto importance = test::importance(1024);
  for (const KernelTable* isa : usable_kernels())
    for (const DTypeInfo& type : all_dtypes()) {
      if (!has_block_codec(type.dtype)) continue;
      for (const float* q : {static_cast<const float*>(nullptr), importance.data()}) {
        if (q == nullptr && needs_importance(type.dtype)) continue;
        std::vector<std::byte> expected(bytes_of(type.dtype, x.size())), got(expected.size());
        encode_blocks_reference(type.dtype, x.data(), expected.data(), 16, 1024, q);
        quantize_rows_with(isa->vectors, type.dtype, x.data(), got.data(), 16, 1024, q);
        std::int64_t differing = 0;
        for (std::size_t i = 0; i < got.size(); ++i) differing += expected[i] != got[i];
        EXPECT_EQ(differing, 0) << isa->name << " " << type.name << (q ? " weighted" : "");
      }
    }
}

/// The one place where we do not follow ggml, which stores the groups behind a sub-block of zeros too early.
TEST(BlockReference, Iq3sKeepsTheWeightsBehindASubBlockOfZeros) {
  auto x = test::weights("normal", 1, 256);
  std::fill_n(x.begin() + 32, 32, 0.0f);
  const auto blocks = quantized(&encode_blocks_reference, DType::iq3_s, x, 256, nullptr);
  std::vector<float> y(256);
  decode_blocks(DType::iq3_s, blocks.data(), y.data(), y.size());
  double wrong = 0, all = 0;
  for (std::size_t i = 64; i < 256; ++i) {
    wrong += (x[i] - y[i]) * static_cast<double>(x[i] - y[i]);
    all += x[i] * static_cast<double>(x[i]);
  }
  EXPECT_LT(wrong / all, 0.03);
}

/// What a decoded block is worth: relative squared error on normal weights (science of each format: its table, 1 %).
TEST(BlockCodec, RoundTripErrorIsThatOfTheFormat) {
  struct Expected {
    DType type;
    double error;
  };
  constexpr Expected table[] = {{DType::q4_0, 0.00736}, {DType::mxfp4, 0.01326}, {DType::nvfp4, 0.00905}};
  std::vector<float> x(1 << 18), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)  // Box and Muller's normal: the tails matter here
    x[i] = static_cast<float>(std::sqrt(-2 * std::log(1 - test::uniform(11, i + 1))) *
                              std::cos(2 * 3.14159265358979 * test::uniform(12, i + 1)));
  for (const auto& [type, error] : table) {
    std::vector<std::byte> blocks(bytes_of(type, x.size()));
    quantize_rows(type, x.data(), blocks.data(), 1, static_cast<std::int64_t>(x.size()), nullptr);
    decode_blocks(type, blocks.data(), y.data(), y.size());
    double wrong = 0, all = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      wrong += (x[i] - y[i]) * static_cast<double>(x[i] - y[i]);
      all += x[i] * static_cast<double>(x[i]);
    }
    EXPECT_NEAR(wrong / all, error, error * 0.03) << info(type).name;
  }
}

}  // namespace
}  // namespace fettle::kit
