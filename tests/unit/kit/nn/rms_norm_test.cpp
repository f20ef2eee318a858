// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/rms_norm.h"

#include "fettle_kit/nn/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace fettle::kit {
namespace {

TEST(RmsNorm, DividesEachRowByItsRootMeanSquare) {
  std::vector<float> x{3, 4, 0, 0, 6, 8, 0, 0}, factor{1, 2, 3, 4};
  rms_norm(MutMatrix(x.data(), 2, 4), ConstMatrix(x.data(), 2, 4), factor, 0);
  // mean square 25/4 and 100/4, roots 2.5 and 5
  EXPECT_THAT(x, testing::Pointwise(testing::FloatNear(1e-6f), {1.2f, 3.2f, 0.f, 0.f, 1.2f, 3.2f, 0.f, 0.f}));
}

TEST(RmsNorm, EpsilonKeepsAZeroRowFinite) {
  std::vector<float> x(4, 0.0f), factor(4, 1.0f);
  rms_norm(MutMatrix(x.data(), 1, 4), ConstMatrix(x.data(), 1, 4), factor, 1e-6f);
  EXPECT_THAT(x, testing::Each(0.0f));
}

TEST(RmsNorm, AgreesWithTheReference) {
  std::vector<float> x, factor(100);
  for (int i = 0; i < 700; ++i) x.push_back(static_cast<float>(i * 37 % 101) - 50.0f);
  for (int i = 0; i < 100; ++i) factor[static_cast<std::size_t>(i)] = 0.5f + static_cast<float>(i) / 100;
  std::vector<float> fast(700), plain(700);
  rms_norm(MutMatrix(fast.data(), 7, 100), ConstMatrix(x.data(), 7, 100), factor, 1e-5f);
  reference::rms_norm(MutMatrix(plain.data(), 7, 100), ConstMatrix(x.data(), 7, 100), factor, 1e-5f);
  EXPECT_THAT(fast, testing::Pointwise(testing::FloatNear(1e-6f), plain));
}

}  // namespace
}  // namespace fettle::kit
