// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/distill/hidden_loss.h"

#include "fettle_kit/tensor/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace fettle::kit {

bool operator==(const LayerPair& a, const LayerPair& b) { return a.student == b.student && a.teacher == b.teacher; }

namespace {

Rows noise(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Rows x(rows, cols);
  for (std::int64_t i = 0; i < rows * cols; ++i)
    MutMatrix(x).data[i] = static_cast<float>(2 * philox_uniform(seed, 0, static_cast<std::uint64_t>(i)) - 1);
  return x;
}

double plain_distance(ConstMatrix x, ConstMatrix t) {
  double sum = 0;
  for (std::int64_t i = 0; i < x.rows; ++i) {
    double dot = 0, a = 0, b = 0;
    for (std::int64_t j = 0; j < x.cols; ++j)
      dot += double{x(i, j)} * t(i, j), a += double{x(i, j)} * x(i, j), b += double{t(i, j)} * t(i, j);
    sum += 1 - dot / std::sqrt(a * b);
  }
  return sum;
}

TEST(CosineDistance, GradientIsThatOfTheValue) {
  Rows x = noise(3, 20, 1);
  const Rows t = noise(3, 20, 2);
  Rows dx(3, 20);
  EXPECT_NEAR(cosine_distance(dx, x, t, {}, 2), plain_distance(x, t), 1e-6);
  for (std::int64_t i = 0; i < 60; ++i) {
    float& at = MutMatrix(x).data[i];
    const float middle = at, step = 0x1p-10F;  // exact in f32: the value is computed in f64
    at = middle + step;
    const double up = plain_distance(x, t);
    at = middle - step;
    const double down = plain_distance(x, t);
    at = middle;
    EXPECT_NEAR(MutMatrix(dx).data[i], 2 * (up - down) / (2 * double{step}), 2e-5);
  }
}

TEST(CosineDistance, IsExactlyZeroAtTheTarget) {
  const Rows x = noise(5, 33, 3);
  Rows dx(5, 33);
  EXPECT_EQ(cosine_distance(dx, x, x, {}, 0.3), 0);
  for (std::int64_t i = 0; i < 5 * 33; ++i) EXPECT_EQ(MutMatrix(dx).data[i], 0.0F);
}

TEST(CosineDistance, SkipsRowsThatDoNotCountAndSurvivesZeros) {
  Rows x = noise(3, 8, 4);
  const Rows t = noise(3, 8, 5);
  std::ranges::fill(MutMatrix(x).row(1), 0.0F);
  Rows dx(3, 8);
  const std::vector<std::uint8_t> rows{0, 1, 0};
  EXPECT_EQ(cosine_distance(dx, x, t, rows, 1), 1);
  for (std::int64_t i = 0; i < 24; ++i) EXPECT_EQ(MutMatrix(dx).data[i], 0.0F);
}

TEST(HiddenLayers, AreSpreadEvenlyAndEndTogether) {
  EXPECT_EQ(uniform_layers(2, 4), (std::vector<LayerPair>{{1, 2}, {2, 4}}));
  EXPECT_EQ(uniform_layers(3, 3), (std::vector<LayerPair>{{1, 1}, {2, 2}, {3, 3}}));
  EXPECT_EQ(uniform_layers(3, 8), (std::vector<LayerPair>{{1, 3}, {2, 5}, {3, 8}}));
  EXPECT_EQ(uniform_layers(4, 2), (std::vector<LayerPair>{{1, 1}, {2, 1}, {3, 2}, {4, 2}}));
}

TEST(HiddenLayers, RefusesWhatIsNoLayer) {
  EXPECT_EQ(*parse_layers({{"0", 0}, {"2", 3}}, 2, 3), (std::vector<LayerPair>{{0, 0}, {2, 3}}));
  EXPECT_EQ(parse_layers({{"3", 1}}, 2, 3).error().message(),
            "'3' is no layer of the student, which has 0 (the embedding) to 2");
  EXPECT_EQ(parse_layers({{"last", 1}}, 2, 3).error().message(),
            "'last' is no layer of the student, which has 0 (the embedding) to 2");
  EXPECT_EQ(parse_layers({{"1", 4}}, 2, 3).error().message(),
            "4 is no layer of the teacher, which has 0 (the embedding) to 3");
  EXPECT_EQ(parse_layers({{"1", 1}, {"1", 2}}, 2, 3).error().message(), "student layer 1 is named twice");
}

}  // namespace
}  // namespace fettle::kit
