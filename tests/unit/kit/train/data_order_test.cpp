// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/data_order.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<std::int64_t> epoch(DataOrder& order, std::int64_t number, std::int64_t n) {
  std::vector<std::int64_t> seen;
  for (std::int64_t i = 0; i < n; ++i) seen.push_back(order[number * n + i]);
  return seen;
}

TEST(DataOrder, ShowsEverySequenceOnceAnEpoch) {
  DataOrder order(7, 50);
  for (std::int64_t e = 0; e < 3; ++e) {
    const auto seen = epoch(order, e, 50);
    EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), 50U);
  }
}

TEST(DataOrder, ShufflesEachEpochAnew) {
  DataOrder order(7, 50);
  EXPECT_NE(epoch(order, 0, 50), epoch(order, 1, 50));
}

TEST(DataOrder, DependsOnTheSeed) {
  DataOrder a(7, 50), b(8, 50);
  EXPECT_NE(epoch(a, 0, 50), epoch(b, 0, 50));
}

TEST(DataOrder, GivesTheSameWhereverOneBegins) {
  DataOrder from_start(7, 50), later(7, 50);
  const auto expected = epoch(from_start, 2, 50);
  EXPECT_EQ(later[130], expected[30]);
}

TEST(DataOrder, PutsEachSequenceFirstEquallyOften) {
  std::vector<int> first(5);
  for (std::uint64_t seed = 0; seed < 5000; ++seed) ++first[static_cast<std::size_t>(DataOrder(seed, 5)[0])];
  for (const int count : first) EXPECT_NEAR(count, 1000, 120);  // 4 standard deviations of 28
}

TEST(DataOrder, RepeatsASingleSequence) {
  DataOrder order(1, 1);
  EXPECT_EQ(order[0], 0);
  EXPECT_EQ(order[9], 0);
}

}  // namespace
}  // namespace fettle::kit
