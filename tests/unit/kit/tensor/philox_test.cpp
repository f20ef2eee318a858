// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/philox.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fettle::kit {
namespace {

// The known answers that the authors publish with their library (kat_vectors, "philox4x32 10").
TEST(Philox, GivesTheKnownAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StaysBelowTheEnd) {
  for (std::uint64_t i = 0; i < 1000; ++i) EXPECT_LT(philox_below(7, i, 10), 10u);
}

TEST(Philox, UniformNumbersFillTheUnitInterval) {
  double sum = 0, least = 1, most = 0;
  for (std::uint64_t i = 0; i < 10000; ++i) {
    const double u = philox_uniform(5, 0, i);
    sum += u;
    least = std::min(least, u);
    most = std::max(most, u);
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.015);  // five standard deviations
  EXPECT_GE(least, 0);
  EXPECT_LT(most, 1);
  EXPECT_LT(least, 0.001);
  EXPECT_GT(most, 0.999);
}

TEST(Philox, StreamsOfUniformNumbersDiffer) { EXPECT_NE(philox_uniform(1, 0, 0), philox_uniform(1, 1, 0)); }

}  // namespace
}  // namespace fettle::kit
