// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/scalar.h"

#include <gtest/gtest.h>

namespace fettle::host {
namespace {

Node plain(const std::string& text) {
  Node node;
  node.kind = Node::Kind::scalar;
  node.text = text;
  return node;
}

struct Case {
  const char* name;
  std::uint32_t type;
  const char* text;
  std::optional<double> value;
};

class ReadScalar : public ::testing::TestWithParam<Case> {};

TEST_P(ReadScalar, GivesTheValueOrNothing) {
  const Case& c = GetParam();
  const auto scalar = read_scalar(plain(c.text), c.type);
  ASSERT_EQ(scalar.has_value(), c.value.has_value());
  if (scalar) {
    EXPECT_DOUBLE_EQ(scalar->real, *c.value);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Texts, ReadScalar,
    ::testing::Values(
        Case{"int", FETTLE_TYPE_INT, "-17", -17}, Case{"int_plus", FETTLE_TYPE_INT, "+3", 3},
        Case{"int_hex", FETTLE_TYPE_INT, "0x1F", 31}, Case{"int_octal", FETTLE_TYPE_INT, "0o17", 15},
        Case{"int_fraction", FETTLE_TYPE_INT, "1.0", std::nullopt},
        Case{"int_too_long", FETTLE_TYPE_INT, "9223372036854775808", std::nullopt},
        Case{"int_text_after", FETTLE_TYPE_INT, "3x", std::nullopt}, Case{"float", FETTLE_TYPE_FLOAT, "1.0e-4", 1e-4},
        Case{"float_short", FETTLE_TYPE_FLOAT, ".5", 0.5}, Case{"float_int", FETTLE_TYPE_FLOAT, "3", 3},
        Case{"float_inf", FETTLE_TYPE_FLOAT, ".inf", std::nullopt},
        Case{"float_nan", FETTLE_TYPE_FLOAT, "nan", std::nullopt},
        Case{"float_too_large", FETTLE_TYPE_FLOAT, "1e999", std::nullopt},
        Case{"float_half_exponent", FETTLE_TYPE_FLOAT, "1e", std::nullopt}, Case{"count", FETTLE_TYPE_COUNT, "2M", 2e6},
        Case{"count_fraction", FETTLE_TYPE_COUNT, "1.5k", 1500},
        Case{"count_not_whole", FETTLE_TYPE_COUNT, "1.5", std::nullopt},
        Case{"count_negative", FETTLE_TYPE_COUNT, "-1", std::nullopt},
        Case{"count_binary", FETTLE_TYPE_COUNT, "2MiB", std::nullopt},
        Case{"size", FETTLE_TYPE_SIZE, "1.5GiB", 1610612736.0}, Case{"size_decimal", FETTLE_TYPE_SIZE, "500MB", 5e8},
        Case{"size_space", FETTLE_TYPE_SIZE, "24 GiB", 25769803776.0},
        Case{"size_bare", FETTLE_TYPE_SIZE, "500", std::nullopt}, Case{"size_zero", FETTLE_TYPE_SIZE, "0", 0},
        Case{"size_too_large", FETTLE_TYPE_SIZE, "9e9TiB", std::nullopt},
        Case{"duration", FETTLE_TYPE_DURATION, "15min", 900}, Case{"duration_ms", FETTLE_TYPE_DURATION, "20ms", 0.02},
        Case{"duration_bare", FETTLE_TYPE_DURATION, "15", std::nullopt}, Case{"bool", FETTLE_TYPE_BOOL, "true", 1},
        Case{"bool_yes", FETTLE_TYPE_BOOL, "yes", std::nullopt}),
    [](const auto& test) { return test.param.name; });

TEST(ReadScalarQuoted, IsOnlyText) {
  Node node = plain("0.5");
  node.quoted = true;
  EXPECT_FALSE(read_scalar(node, FETTLE_TYPE_FLOAT));
  EXPECT_EQ(read_scalar(node, FETTLE_TYPE_STRING)->text, "0.5");
}

TEST(Grouped, SeparatesThousands) {
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(5'368'709'120), "5,368,709,120");
}

}  // namespace
}  // namespace fettle::host
