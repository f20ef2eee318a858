// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/mean.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace fettle::kit {
namespace {

TEST(MeanOverWindows, EqualWeightsGiveTheStandardErrorOfTheMean) {
  const std::vector<double> sums{2, 4, 6, 8}, weights{2, 2, 2, 2};  // means 1 2 3 4: deviation sqrt(5/3), over sqrt(4)
  const Mean mean = mean_over_windows(sums, weights);
  EXPECT_DOUBLE_EQ(mean.value, 2.5);
  EXPECT_DOUBLE_EQ(mean.standard_error, std::sqrt(5.0 / 3) / 2);
}

TEST(MeanOverWindows, WeightsCount) {
  const Mean mean = mean_over_windows(std::vector<double>{1, 9}, std::vector<double>{1, 3});
  EXPECT_DOUBLE_EQ(mean.value, 2.5);
  EXPECT_DOUBLE_EQ(mean.standard_error, std::sqrt(2 * (1.5 * 1.5 + 1.5 * 1.5)) / 4);
}

TEST(MeanOverWindows, OneWindowHasNoStandardError) {
  EXPECT_TRUE(std::isnan(mean_over_windows(std::vector<double>{3}, std::vector<double>{2}).standard_error));
}

}  // namespace
}  // namespace fettle::kit
