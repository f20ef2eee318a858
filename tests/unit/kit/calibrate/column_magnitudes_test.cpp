// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/column_magnitudes.h"

#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <cmath>
#include <random>

namespace fettle::kit {
namespace {

std::vector<float> normal_values(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& v : x) v = normal(random);
  return x;
}

TEST(ColumnMagnitudes, KnowsTheLargestAndTheMeans) {
  const std::vector<float> first{1, -2, -3, 4}, second{2, 1};
  ColumnMagnitudes seen(2);
  seen.add(ConstMatrix(first.data(), 2, 2));
  seen.add(ConstMatrix(second.data(), 1, 2));
  EXPECT_EQ(seen.abs_max(), (std::vector<float>{3, 4}));
  EXPECT_EQ(seen.mean_abs(), (std::vector<float>{2, 7.0f / 3}));
  EXPECT_EQ(seen.mean(), (std::vector<float>{0, 1}));
  EXPECT_EQ(seen.rows(), 3);
}

TEST(SequenceMagnitudes, AveragesOverTokensAndTakesTheNormOverSequences) {
  const std::vector<float> x{1, 0, -3, 0, /* second sequence */ 0, 4, 0, -4};
  SequenceMagnitudes seen(2, 2);
  seen.add(ConstMatrix(x.data(), 4, 2));
  EXPECT_EQ(seen.l2(), (std::vector<float>{2, 4}));
  EXPECT_EQ(seen.sequences(), 2);
}

// Joint averages over all tokens rank the columns 0.5 : 0.5.
TEST(SequenceMagnitudes, RanksAColumnOfOneTextAboveOneOfAll) {
  const std::vector<float> x{2, 1, /* second sequence */ 0, 1};
  SequenceMagnitudes seen(2, 1);
  seen.add(ConstMatrix(x.data(), 2, 2));
  EXPECT_GT(seen.l2()[0], seen.l2()[1]);
}

TEST(SequenceMagnitudes, TwoPortionsGiveWhatOneGives) {
  const std::vector<float> x = normal_values(60 * 70);
  SequenceMagnitudes whole(70, 10), parts(70, 10);
  whole.add(ConstMatrix(x.data(), 60, 70));
  parts.add(ConstMatrix(x.data(), 20, 70));
  parts.add(ConstMatrix(x.data() + 20 * 70, 40, 70));
  EXPECT_EQ(whole.l2(), parts.l2());
}

TEST(SequenceMagnitudes, AreTheSameForAnyThreadCount) {
  const std::vector<float> x = normal_values(40 * 300);
  const auto norms = [&](int threads) {
    return tbb::task_arena(threads).execute([&] {
      SequenceMagnitudes seen(300, 20);
      seen.add(ConstMatrix(x.data(), 40, 300));
      return seen.l2();
    });
  };
  EXPECT_EQ(norms(1), norms(7));
}

}  // namespace
}  // namespace fettle::kit
