// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/folding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace fettle::kit {
namespace {

TEST(Folding, MovesFactorsBetweenColumnsAndRows) {
  std::vector<float> w{1, 2, 3, 4}, bias{10, 20};
  scale_columns(MutMatrix(w.data(), 2, 2), std::vector<float>{2, 3});
  EXPECT_EQ(w, (std::vector<float>{2, 6, 6, 12}));
  divide_rows(MutMatrix(w.data(), 2, 2), bias, std::vector<float>{2, 4});
  EXPECT_EQ(w, (std::vector<float>{1, 3, 1.5F, 3}));
  EXPECT_EQ(bias, (std::vector<float>{5, 5}));
}

TEST(Folding, CompensatesForTheRoundingOfTheNorm) {
  std::vector<float> factors{0.7F, 1.3F}, scales{3, 1.7F};
  const std::vector<float> before = factors;
  fold_into_norm(factors, scales, DType::bf16, false);
  for (std::size_t j = 0; j < factors.size(); ++j) {
    EXPECT_NEAR(factors[j] * scales[j], before[j], 1e-7F);
    std::byte stored[2];
    float again = 0;
    info(DType::bf16).from_f32(&factors[j], stored, 1);
    info(DType::bf16).to_f32(stored, &again, 1);
    EXPECT_EQ(again, factors[j]);
  }
}

TEST(Folding, StoresWhatIsAboveOneWhereTheFamilyDoes) {
  std::vector<float> factors{1.25F}, scales{2};
  fold_into_norm(factors, scales, DType::bf16, true);
  EXPECT_EQ(factors[0], 0.625F);  // stored as -0.375
  EXPECT_EQ(scales[0], 2.0F);
}

TEST(Folding, LeavesANormAloneWhereItCannotBeDivided) {
  std::vector<float> factors{0, 1e-38F, 1}, scales{2, 1e30F, 1};
  fold_into_norm(factors, scales, DType::f16, false);
  EXPECT_EQ(factors, (std::vector<float>{0, 1e-38F, 1}));
  EXPECT_EQ(scales, (std::vector<float>{1, 1, 1}));
}

TEST(Folding, SharesScalesAmongHeadsThatShareAValueHead) {
  const std::vector<float> by_head{1, 2, 3, 4, 5, 6, 7, 8};  // 4 heads of 2
  const std::vector<float> mean = mean_over_sharing_heads(by_head, 4, 2);
  EXPECT_EQ(mean, (std::vector<float>{2, 3, 6, 7}));
  EXPECT_EQ(largest_of_sharing_heads(by_head, 4, 2), (std::vector<float>{3, 4, 7, 8}));
  EXPECT_EQ(repeat_for_heads(mean, 4, 2), (std::vector<float>{2, 3, 2, 3, 6, 7, 6, 7}));
}

}  // namespace
}  // namespace fettle::kit
