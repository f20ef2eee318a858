// SPDX-License-Identifier: Apache-2.0
#include "host/report/quantity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace fettle::host {
namespace {

TEST(ShowBytes, HasThreeDigitsAndAUnit) {
  EXPECT_EQ(show_bytes(0), "0 B");
  EXPECT_EQ(show_bytes(1023), "1023 B");
  EXPECT_EQ(show_bytes(1024), "1.00 KiB");
  EXPECT_EQ(show_bytes(1536), "1.50 KiB");
  EXPECT_EQ(show_bytes(1024 * 1024 - 1), "1.00 MiB");
  EXPECT_EQ(show_bytes(13ull << 20), "13.0 MiB");
  EXPECT_EQ(show_bytes(std::uint64_t{500} << 30), "500 GiB");
  EXPECT_EQ(show_bytes(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

TEST(ShowSeconds, ChoosesTheUnit) {
  EXPECT_EQ(show_seconds(0), "0 ms");
  EXPECT_EQ(show_seconds(0.0454), "45 ms");
  EXPECT_EQ(show_seconds(0.9996), "1.0 s");
  EXPECT_EQ(show_seconds(59.9), "59.9 s");
  EXPECT_EQ(show_seconds(59.96), "1 min 00 s");
  EXPECT_EQ(show_seconds(245), "4 min 05 s");
  EXPECT_EQ(show_seconds(7380), "2 h 03 min");
  EXPECT_EQ(show_seconds(NAN), "?");
}

TEST(ShowCount, UsesPowersOfAThousand) {
  EXPECT_EQ(show_count(7), "7");
  EXPECT_EQ(show_count(1500), "1.50 k");
  EXPECT_EQ(show_count(3.2e12, "FLOP"), "3.20 TFLOP");
}

TEST(ShowMeasured, RoundsTheValueToItsError) {
  EXPECT_EQ(show_measured(31.24134, 0.1234, false), "31.24 +- 0.12");
  EXPECT_EQ(show_measured(31.24134, 0.1234, true), "31.24 \u00b1 0.12");
  EXPECT_EQ(show_measured(31241.34, 1234, false), "31241 +- 1234");
  EXPECT_EQ(show_measured(0.00012345, 0.0000012, false), "0.0001234 +- 0.0000012");
}

TEST(ShowMeasured, ShowsOnlyTheValueWithoutAnError) {
  EXPECT_EQ(show_measured(31.24134, std::nullopt, true), "31.2413");
  EXPECT_EQ(show_measured(31.24134, NAN, true), "31.2413");
  EXPECT_EQ(show_measured(31.24134, 0.0, true), "31.2413");
}

}  // namespace
}  // namespace fettle::host
