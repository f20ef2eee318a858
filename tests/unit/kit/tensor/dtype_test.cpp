// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/dtype.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <string>

namespace fettle::kit {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::uint64_t encode(DType dtype, float value) {
  std::array<std::byte, 8> bytes{};
  info(dtype).from_f32(&value, bytes.data(), 1);
  return std::bit_cast<std::uint64_t>(bytes);
}

float decode(DType dtype, std::uint64_t code) {
  const auto bytes = std::bit_cast<std::array<std::byte, 8>>(code);
  float value = 0;
  info(dtype).to_f32(bytes.data(), &value, 1);
  return value;
}

struct CodeCase {
  const char* name;
  DType dtype;
  float value;
  std::uint64_t code;
};

class DTypeCode : public ::testing::TestWithParam<CodeCase> {};

TEST_P(DTypeCode, FromF32RoundsToNearestEven) {
  const auto& c = GetParam();
  EXPECT_EQ(encode(c.dtype, c.value), c.code);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, DTypeCode,
    ::testing::Values(
        CodeCase{"f16_one", DType::f16, 1.0f, 0x3c00}, CodeCase{"f16_minus_two", DType::f16, -2.0f, 0xc000},
        CodeCase{"f16_negative_zero", DType::f16, -0.0f, 0x8000}, CodeCase{"f16_largest", DType::f16, 65504.0f, 0x7bff},
        CodeCase{"f16_just_below_overflow", DType::f16, 65519.996f, 0x7bff},
        CodeCase{"f16_overflow_tie", DType::f16, 65520.0f, 0x7c00}, CodeCase{"f16_inf", DType::f16, -kInf, 0xfc00},
        CodeCase{"f16_nan", DType::f16, kNaN, 0x7e00}, CodeCase{"f16_smallest_subnormal", DType::f16, 0x1p-24f, 0x0001},
        CodeCase{"f16_half_of_smallest_goes_to_even", DType::f16, 0x1p-25f, 0x0000},
        CodeCase{"f16_above_half_of_smallest", DType::f16, 0x1.000002p-25f, 0x0001},
        CodeCase{"f16_three_halves_go_to_even", DType::f16, 0x1.8p-24f, 0x0002},
        CodeCase{"f16_subnormal_rounds_up_to_normal", DType::f16, 0x1.ffffp-15f, 0x0400},
        CodeCase{"f16_tie_down", DType::f16, 1.0f + 0x1p-11f, 0x3c00},
        CodeCase{"f16_tie_up", DType::f16, 1.0f + 0x3p-11f, 0x3c02},
        CodeCase{"f16_of_f32_subnormal", DType::f16, 0x1p-149f, 0x0000},
        CodeCase{"bf16_one", DType::bf16, 1.0f, 0x3f80}, CodeCase{"bf16_tie_down", DType::bf16, 0x1.01p0f, 0x3f80},
        CodeCase{"bf16_tie_up", DType::bf16, 0x1.03p0f, 0x3f82},
        CodeCase{"bf16_overflow", DType::bf16, std::numeric_limits<float>::max(), 0x7f80},
        CodeCase{"bf16_nan", DType::bf16, kNaN, 0x7fc0},
        CodeCase{"bf16_nan_with_low_payload", DType::bf16, std::bit_cast<float>(0x7f800001u), 0x7fc0},
        CodeCase{"bf16_subnormal", DType::bf16, 0x1p-133f, 0x0001}, CodeCase{"e4m3_one", DType::f8_e4m3, 1.0f, 0x38},
        CodeCase{"e4m3_largest", DType::f8_e4m3, 448.0f, 0x7e},
        CodeCase{"e4m3_tie_to_largest", DType::f8_e4m3, 464.0f, 0x7e},
        CodeCase{"e4m3_overflow", DType::f8_e4m3, 464.1f, 0x7f}, CodeCase{"e4m3_inf", DType::f8_e4m3, -kInf, 0xff},
        CodeCase{"e4m3_nan", DType::f8_e4m3, kNaN, 0x7f}, CodeCase{"e4m3_subnormal", DType::f8_e4m3, 0x1p-9f, 0x01},
        CodeCase{"e4m3_tie_to_zero", DType::f8_e4m3, 0x1p-10f, 0x00}, CodeCase{"e5m2_one", DType::f8_e5m2, 1.0f, 0x3c},
        CodeCase{"e5m2_largest", DType::f8_e5m2, 57344.0f, 0x7b},
        CodeCase{"e5m2_overflow", DType::f8_e5m2, 61440.0f, 0x7c}, CodeCase{"e5m2_nan", DType::f8_e5m2, kNaN, 0x7f},
        CodeCase{"e5m2_subnormal", DType::f8_e5m2, 0x1p-16f, 0x01}, CodeCase{"i8_tie_to_even", DType::i8, 2.5f, 2},
        CodeCase{"i8_high", DType::i8, 300.0f, 127}, CodeCase{"i8_low", DType::i8, -kInf, 0x80},
        CodeCase{"i8_nan", DType::i8, kNaN, 0}, CodeCase{"u8_negative", DType::u8, -1.0f, 0},
        CodeCase{"i64_high", DType::i64, 1e30f, 0x7fffffffffffffffu},
        CodeCase{"u64_high", DType::u64, 1e30f, 0xffffffffffffffffu}, CodeCase{"bool_true", DType::boolean, 0.5f, 1},
        CodeCase{"bool_false", DType::boolean, -0.0f, 0},
        CodeCase{"f64_is_exact", DType::f64, 0.1f, std::bit_cast<std::uint64_t>(static_cast<double>(0.1f))}),
    [](const auto& test) { return test.param.name; });

struct AllCodesCase {
  const char* name;
  DType dtype;
  std::uint32_t codes;
};

class SmallFloatType : public ::testing::TestWithParam<AllCodesCase> {};

TEST_P(SmallFloatType, EveryCodeSurvivesARoundTripThroughF32) {
  const auto& c = GetParam();
  for (std::uint32_t code = 0; code < c.codes; ++code) {
    const float value = decode(c.dtype, code);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(decode(c.dtype, encode(c.dtype, value)))) << code;
    } else {
      ASSERT_EQ(encode(c.dtype, value), code);
    }
  }
}

// Monotonic and to the nearer neighbour: the midpoint of two codes goes to the even one, its neighbours to theirs.
TEST_P(SmallFloatType, EveryMidpointGoesToTheEvenCode) {
  const auto& c = GetParam();
  for (std::uint32_t code = 0; code + 1 < c.codes / 2; ++code) {
    const float low = decode(c.dtype, code), high = decode(c.dtype, code + 1);
    if (!std::isfinite(low) || !std::isfinite(high)) break;
    const float middle = low + (high - low) / 2;  // exact: both have far fewer bits than f32
    ASSERT_EQ(encode(c.dtype, middle), code + (code & 1)) << code;
    if (middle > std::numeric_limits<float>::min()) {
      ASSERT_EQ(encode(c.dtype, std::nextafter(middle, 0.0f)), code) << code;
      ASSERT_EQ(encode(c.dtype, std::nextafter(middle, kInf)), code + 1) << code;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, SmallFloatType,
                         ::testing::Values(AllCodesCase{"f16", DType::f16, 65536},
                                           AllCodesCase{"bf16", DType::bf16, 65536},
                                           AllCodesCase{"e4m3", DType::f8_e4m3, 256},
                                           AllCodesCase{"e5m2", DType::f8_e5m2, 256}),
                         [](const auto& test) { return test.param.name; });

TEST(DTypeTable, PowerOfTwoScalesReadAsPowersOfTwo) {
  EXPECT_EQ(decode(DType::f8_e8m0, 127), 1.0f);
  EXPECT_EQ(decode(DType::f8_e8m0, 0), 0x1p-127f);
  EXPECT_EQ(decode(DType::f8_e8m0, 254), 0x1p127f);
  EXPECT_TRUE(std::isnan(decode(DType::f8_e8m0, 255)));
}

TEST(DTypeTable, EveryNameLeadsBackToItsRow) {
  std::set<std::string_view> names;
  for (const DTypeInfo& row : all_dtypes()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_EQ(find_dtype_by_name(row.name), &info(row.dtype));
    EXPECT_EQ(find_dtype_by_safetensors(row.safetensors), row.safetensors.empty() ? nullptr : &info(row.dtype));
    EXPECT_EQ(find_dtype_by_gguf(row.gguf), row.gguf < 0 ? nullptr : &info(row.dtype));
  }
}

TEST(DTypeTable, UnknownNamesHaveNoRow) {
  EXPECT_EQ(find_dtype_by_safetensors(""), nullptr);
  EXPECT_EQ(find_dtype_by_safetensors("f32"), nullptr);
  EXPECT_EQ(find_dtype_by_gguf(-1), nullptr);
  EXPECT_EQ(find_dtype_by_gguf(9), nullptr);
  EXPECT_EQ(find_dtype_by_name("q4_K"), nullptr);
}

TEST(DTypeTable, BytesCountWholeBlocks) {
  EXPECT_EQ(bytes_of(DType::q4_k, 512), 288u);
  EXPECT_EQ(bytes_of(DType::bf16, 3), 6u);
}

}  // namespace
}  // namespace fettle::kit
