// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/column_norms.h"

#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <random>

namespace fettle::kit {
namespace {

TEST(ColumnNorms, SumsSquaresOverAllRowsShown) {
  const std::vector<float> first{1, 2, 3, 4}, second{2, 0};
  ColumnNorms norms(2);
  norms.add(ConstMatrix(first.data(), 2, 2));
  norms.add(ConstMatrix(second.data(), 1, 2));
  EXPECT_EQ(norms.sum_of_squares(), (std::vector<double>{1 + 9 + 4, 4 + 16}));
  EXPECT_EQ(norms.rows(), 3);
  EXPECT_EQ(norms.l2()[1], std::sqrt(20.0F));
}

TEST(ColumnNorms, AreTheSameForAnyThreadCount) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(100 * 300);
  for (float& v : x) v = normal(random);
  const auto sums = [&](int threads) {
    return tbb::task_arena(threads).execute([&] {
      ColumnNorms norms(300);
      norms.add(ConstMatrix(x.data(), 100, 300));
      return norms.sum_of_squares();
    });
  };
  EXPECT_EQ(sums(1), sums(7));
}

}  // namespace
}  // namespace fettle::kit
