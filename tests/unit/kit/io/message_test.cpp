// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/message.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace fettle::kit {
namespace {

TEST(Message, QuotesShowControlCharactersAndBrokenUtf8) {
  EXPECT_EQ(in_quotes("blk.0"), "'blk.0'");
  EXPECT_EQ(in_quotes("a\nb\x7f"), "'a\\x0ab\\x7f'");
  EXPECT_EQ(in_quotes("\xc3\xa4\xc3"), "'\xc3\xa4\\xc3'");
}

TEST(Message, QuotesCutLongText) {
  EXPECT_EQ(in_quotes(std::string(80, 'x')), "'" + std::string(80, 'x') + "'");
  EXPECT_EQ(in_quotes(std::string(81, 'x')), "'" + std::string(80, 'x') + "...'");
}

TEST(Message, GroupsDigitsByThree) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(5368709120), "5,368,709,120");
}

TEST(Message, SystemErrorsAreLowerCase) { EXPECT_EQ(errno_text(EACCES), "permission denied"); }

struct Utf8Case {
  const char* name;
  std::string text;
  bool valid;
};

class Utf8 : public ::testing::TestWithParam<Utf8Case> {};

TEST_P(Utf8, IsChecked) { EXPECT_EQ(is_utf8(GetParam().text), GetParam().valid); }

INSTANTIATE_TEST_SUITE_P(
    Rows, Utf8,
    ::testing::Values(Utf8Case{"empty", "", true}, Utf8Case{"ascii", "abc", true},
                      Utf8Case{"lengths_two_to_four", "\xc2\x80\xe0\xa0\x80\xf0\x90\x80\x80", true},
                      Utf8Case{"last_code_point", "\xf4\x8f\xbf\xbf", true},
                      Utf8Case{"beyond_the_last", "\xf4\x90\x80\x80", false},
                      Utf8Case{"overlong_two", "\xc1\xbf", false}, Utf8Case{"overlong_three", "\xe0\x9f\xbf", false},
                      Utf8Case{"overlong_four", "\xf0\x8f\xbf\xbf", false},
                      Utf8Case{"surrogate", "\xed\xa0\x80", false}, Utf8Case{"cut", "\xe2\x82", false},
                      Utf8Case{"lone_continuation", "\x80", false}, Utf8Case{"bad_lead", "\xff", false}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace fettle::kit
