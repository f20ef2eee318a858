// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/rope.h"

#include "fettle_kit/nn/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace fettle::kit {
namespace {

using testing::FloatNear;
using testing::Pointwise;

TEST(Rope, TurnsPairsOfTheTwoHalvesOfEachHead) {
  const std::vector<float> quarter{std::numbers::pi_v<float> / 2,
                                   0.0f};  // the first pair turns a right angle a position
  const RopeTable table = rope_table(quarter, 1, 0, 2);
  std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8};  // 2 positions, 2 heads of 4
  rotate_heads(MutMatrix(x.data(), 2, 8), table, 2);
  EXPECT_THAT(x, Pointwise(FloatNear(1e-6f), {1, 2, 3, 4, 5, 6, 7, 8, -3, 2, 1, 4, -7, 6, 5, 8}));
}

TEST(Rope, StartsEverySequenceAtTheSamePosition) {
  const RopeTable table = rope_table(std::vector<float>{0.3f}, 1, 5, 2);
  std::vector<float> x{1, 0, 1, 0, 1, 0, 1, 0};  // 2 sequences of 2 positions, one head of 2
  rotate_heads(MutMatrix(x.data(), 4, 2), table, 2);
  EXPECT_FLOAT_EQ(x[0], std::cos(0.3f * 5));
  EXPECT_FLOAT_EQ(x[2], std::cos(0.3f * 6));
  EXPECT_EQ(x[0], x[4]);
  EXPECT_EQ(x[3], x[7]);
}

TEST(Rope, MagnitudeScalesBothTables) {
  const RopeTable table = rope_table(std::vector<float>{0.5f}, 2, 1, 1);
  EXPECT_FLOAT_EQ(table.cos[0], 2 * std::cos(0.5f));
  EXPECT_FLOAT_EQ(table.sin[0], 2 * std::sin(0.5f));
}

TEST(Rope, AgreesWithTheReference) {
  const RopeTable table = rope_table(std::vector<float>{1, 0.5f, 0.1f, 0.01f, 0.001f}, 1.2f, 3, 7);
  std::vector<float> fast;
  for (int i = 0; i < 14 * 30; ++i) fast.push_back(static_cast<float>(i * 37 % 101) / 50 - 1);
  std::vector<float> plain = fast;
  rotate_heads(MutMatrix(fast.data(), 14, 30), table, 7);
  reference::rotate_heads(MutMatrix(plain.data(), 14, 30), table, 7);
  EXPECT_THAT(fast, Pointwise(FloatNear(1e-6f), plain));
}

}  // namespace
}  // namespace fettle::kit
