// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/grid.h"

#include "fettle_kit/tensor/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace fettle::kit {
namespace {

/// Normal deviates by Box and Muller.
std::vector<float> normal(std::size_t n, std::uint64_t seed = 7) {
  std::vector<float> out(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double u = 1 - philox_uniform(seed, 0, i), v = philox_uniform(seed, 1, i);
    out[i] = static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v));
  }
  return out;
}

std::vector<float> values_of(const CodedMatrix& coded) {
  std::vector<float> out(static_cast<std::size_t>(coded.rows * coded.cols));
  coded.read(0, MutMatrix(out.data(), coded.rows, coded.cols));
  return out;
}

GridScheme scheme(int bits, bool symmetric, std::int64_t group) {
  GridScheme s;
  s.bits = bits;
  s.symmetric = symmetric;
  s.group_size = group;
  return s;
}

struct GridCase {
  const char* name;
  bool symmetric;
  std::int64_t group;
  double relative_mse;
};

class GridSanity : public ::testing::TestWithParam<GridCase> {};

/// methods.md 3.9: relative mean squared error on normal deviates, 1M samples.
TEST_P(GridSanity, MatchesTheTableWithinOnePercent) {
  const GridCase& c = GetParam();
  const std::vector<float> w = normal(1 << 20);
  GridScheme s = scheme(4, c.symmetric, c.group);
  s.narrow = c.symmetric;
  const std::vector<float> q = values_of(round_to_grid(ConstMatrix(w.data(), 1024, 1024), s));
  double error = 0, total = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double d = static_cast<double>(w[i]) - static_cast<double>(q[i]);
    error += d * d;
    total += static_cast<double>(w[i]) * static_cast<double>(w[i]);
  }
  EXPECT_NEAR(error / total / c.relative_mse, 1, 0.01);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, GridSanity,
    ::testing::Values(GridCase{"asym_16", false, 16, .00482}, GridCase{"asym_32", false, 32, .00651},
                      GridCase{"asym_64", false, 64, .00826}, GridCase{"asym_128", false, 128, .01009},
                      GridCase{"sym_16", true, 16, .00724}, GridCase{"sym_32", true, 32, .00938},
                      GridCase{"sym_64", true, 64, .01154}, GridCase{"sym_128", true, 128, .01372}),
    [](const auto& row) { return row.param.name; });

TEST(Grid, RoundingTwiceIsRoundingOnce) {
  const std::vector<float> w = normal(64 * 128);
  for (const int bits : {2, 3, 4, 5, 8})
    for (const bool symmetric : {true, false}) {
      const CodedMatrix once = round_to_grid(ConstMatrix(w.data(), 64, 128), scheme(bits, symmetric, 32));
      const std::vector<float> values = values_of(once);
      for (std::int64_t i = 0; i < once.rows; ++i)
        for (std::int64_t j = 0; j < once.cols; ++j) {
          const Steps s = once.steps(i, j / 32);
          const auto at = static_cast<std::size_t>(i * once.cols + j);
          ASSERT_EQ(level_of(values[at], s, bits) + static_cast<float>(s.zero), static_cast<float>(once.codes[at]));
        }
    }
}

TEST(Grid, ErrsByHalfAStepAtMostInsideItsRange) {
  const std::vector<float> w = normal(16 * 128);
  const CodedMatrix coded = round_to_grid(ConstMatrix(w.data(), 16, 128), scheme(4, false, 128));
  const std::vector<float> values = values_of(coded);
  for (std::size_t i = 0; i < w.size(); ++i) {
    const Steps s = coded.steps(static_cast<std::int64_t>(i / 128), 0);
    // The ends of the range may lie half a step outside the grid, whose zero is an integer.
    ASSERT_LE(std::abs(values[i] - w[i]), s.scale * 1.0001F);
    const bool inside = coded.codes[i] != 0 && coded.codes[i] != 15;
    if (inside) {
      ASSERT_LE(std::abs(values[i] - w[i]), s.scale * 0.5001F);
    }
  }
}

TEST(Grid, HoldsZeroExactly) {
  const std::vector<float> w = {0.5F, 0.0F, 3.0F, 1.0F, -0.25F, 0.0F, 2.0F, 1.0F};
  for (const bool symmetric : {true, false}) {
    const std::vector<float> q = values_of(round_to_grid(ConstMatrix(w.data(), 2, 4), scheme(3, symmetric, 4)));
    EXPECT_EQ(q[1], 0.0F);
    EXPECT_EQ(q[5], 0.0F);
  }
}

TEST(Grid, KeepsAGroupOfZeros) {
  const std::vector<float> w(8, 0.0F);
  for (const bool symmetric : {true, false}) {
    const CodedMatrix coded = round_to_grid(ConstMatrix(w.data(), 1, 8), scheme(4, symmetric, 8));
    EXPECT_EQ(values_of(coded), w);
    EXPECT_GT(coded.scales[0], 0);
  }
}

TEST(Grid, HoldsAConstantGroupExactlyWhereTheGridIsAsymmetric) {
  for (const float value : {0.75F, -3.0F}) {
    const std::vector<float> w(8, value);
    const std::vector<float> q = values_of(round_to_grid(ConstMatrix(w.data(), 1, 8), scheme(4, false, 8)));
    for (const float x : q) EXPECT_NEAR(x, value, 1e-6);
  }
}

TEST(Grid, SymmetricConventionsDifferInTheLargestWeight) {
  const std::vector<float> w = {7.5F, -7.5F, 1.0F, -1.0F};
  GridScheme s = scheme(4, true, 4);
  EXPECT_EQ(values_of(round_to_grid(ConstMatrix(w.data(), 1, 4), s)), (std::vector<float>{7, -8, 1, -1}));
  s.narrow = true;
  EXPECT_FLOAT_EQ(values_of(round_to_grid(ConstMatrix(w.data(), 1, 4), s))[0], 7.5F);
}

TEST(Grid, RoundsScalesToTheTypeOfTheFileFirst) {
  const std::vector<float> w = normal(128);
  GridScheme s = scheme(4, true, 128);
  s.scale_type = DType::bf16;
  const CodedMatrix coded = round_to_grid(ConstMatrix(w.data(), 1, 128), s);
  std::byte bytes[2];
  float back = 0;
  info(DType::bf16).from_f32(coded.scales.data(), bytes, 1);
  info(DType::bf16).to_f32(bytes, &back, 1);
  EXPECT_EQ(back, coded.scales[0]);
}

TEST(Grid, ScalesStayPositiveAndFiniteInNarrowTypes) {
  GridScheme s = scheme(4, true, 2);
  s.scale_type = DType::f16;
  for (const float size : {1e-12F, 1e30F}) {
    const std::vector<float> w = {size, -size};
    const CodedMatrix coded = round_to_grid(ConstMatrix(w.data(), 1, 2), s);
    EXPECT_GT(coded.scales[0], 0);
    EXPECT_TRUE(std::isfinite(coded.scales[0]));
  }
}

TEST(Grid, SearchNeverErrsMoreByItsOwnMeasure) {
  const std::vector<float> w = normal(32 * 128);
  for (const double p : {2.0, 2.4}) {
    GridScheme plain = scheme(3, true, 128), searched = plain;
    searched.search = p;
    const auto before = values_of(round_to_grid(ConstMatrix(w.data(), 32, 128), plain));
    const auto after = values_of(round_to_grid(ConstMatrix(w.data(), 32, 128), searched));
    for (std::size_t row = 0; row < 32; ++row) {
      double a = 0, b = 0;
      for (std::size_t i = row * 128; i < (row + 1) * 128; ++i) {
        b += std::pow(std::abs(static_cast<double>(before[i] - w[i])), p);
        a += std::pow(std::abs(static_cast<double>(after[i] - w[i])), p);
      }
      ASSERT_LE(a, b * 1.0001);
    }
  }
}

TEST(Grid, OneScaleForAMatrixIsThatOfItsLargestWeight) {
  const std::vector<float> w = {1, 2, 3, -15};
  GridScheme s = scheme(4, true, 0);
  s.sharing = Sharing::tensor;
  const CodedMatrix coded = round_to_grid(ConstMatrix(w.data(), 2, 2), s);
  EXPECT_EQ(coded.scales, (std::vector<float>{2, 2}));
  EXPECT_EQ(values_of(coded), (std::vector<float>{0, 2, 4, -16}));
}

}  // namespace
}  // namespace fettle::kit
