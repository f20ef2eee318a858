// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sweep.h"

#include <Eigen/Dense>
#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

namespace fettle::kit {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Zeroes a fixed set of weights: the same for every block size.
class FixedMask final : public SweepRule {
 public:
  explicit FixedMask(std::int64_t cols) : cols_(cols) {}
  void begin_block(std::int64_t, ConstMatrix, std::span<const double>) override {}
  float value(std::int64_t row, std::int64_t column, std::span<const float> rest, std::span<const double>) override {
    return (row * 31 + column * 17 + row * cols_ / 3) % 5 < 2 ? 0.0F : rest[0];
  }

 private:
  std::int64_t cols_;
};

/// Rounds to a multiple of a quarter: a grid, as GPTQ has one.
class QuarterGrid final : public SweepRule {
 public:
  void begin_block(std::int64_t, ConstMatrix, std::span<const double>) override {}
  float value(std::int64_t, std::int64_t, std::span<const float> rest, std::span<const double>) override {
    return std::nearbyint(rest[0] * 4) / 4;
  }
};

struct Layer {
  std::vector<float> weights;
  Matrix gram;
  Square square;
  std::int64_t rows, cols;

  MutMatrix view(std::vector<float>& values) const { return {values.data(), rows, cols}; }
};

Layer layer(std::int64_t rows, std::int64_t cols, bool correlated, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Layer l{std::vector<float>(static_cast<std::size_t>(rows * cols)), Matrix::Identity(cols, cols) * 3.0, Square(cols),
          rows, cols};
  for (float& w : l.weights) w = static_cast<float>(normal(random));
  if (correlated) {
    Matrix x(4 * cols, cols);
    for (std::int64_t i = 0; i < x.rows(); ++i) {
      const double common = normal(random);
      for (std::int64_t j = 0; j < cols; ++j) x(i, j) = normal(random) + common * (1 + static_cast<double>(j % 3));
    }
    l.gram = x.transpose() * x;
  }
  for (std::int64_t i = 0; i < cols; ++i)
    for (std::int64_t j = 0; j < cols; ++j) l.square(i, j) = l.gram(i, j);
  return l;
}

/// tr((W - W') (H + damping * mean diagonal) (W - W')^T)
double loss(const Layer& l, const std::vector<float>& after, double damping) {
  const Matrix h = l.gram + damping * l.gram.trace() / static_cast<double>(l.cols) * Matrix::Identity(l.cols, l.cols);
  Matrix d(l.rows, l.cols);
  for (std::int64_t i = 0; i < l.rows * l.cols; ++i)
    d.data()[i] = static_cast<double>(l.weights[static_cast<std::size_t>(i)]) -
                  static_cast<double>(after[static_cast<std::size_t>(i)]);
  return (d * h * d.transpose()).trace();
}

// The best test there is: any mistake in the factor's orientation, the sign of the update, the
// lazy update of the rest, or the damping breaks it. 1e-3: what f32 leaves of it.
TEST(Sweep, SumOfSquaredErrorsIsTheLossOfTheWholeMatrix) {
  for (const std::int64_t block : {8, 32, 96}) {
    const Layer l = layer(24, 96, true);
    auto w = l.weights;
    FixedMask rule(96);
    const auto report = sweep_columns(l.view(w), l.square, rule, {block, 0.01});
    ASSERT_TRUE(report.ok()) << report.error().message();
    EXPECT_NEAR(report->error / loss(l, w, 0.01), 1, 1e-3) << "block " << block;
  }
}

TEST(Sweep, IdentityHoldsForAGridToo) {
  const Layer l = layer(24, 96, true);
  auto w = l.weights;
  QuarterGrid rule;
  const auto report = sweep_columns(l.view(w), l.square, rule, {32, 0.01});
  ASSERT_TRUE(report.ok());
  EXPECT_NEAR(report->error / loss(l, w, 0.01), 1, 1e-3);
}

TEST(Sweep, LosesLessThanZeroingAlone) {
  const Layer l = layer(24, 96, true);
  auto swept = l.weights, zeroed = l.weights;
  FixedMask rule(96);
  ASSERT_TRUE(sweep_columns(l.view(swept), l.square, rule).ok());
  for (std::size_t i = 0; i < zeroed.size(); ++i)
    if (swept[i] == 0) zeroed[i] = 0;
  EXPECT_LT(loss(l, swept, 0.01), 0.9 * loss(l, zeroed, 0.01));
}

TEST(Sweep, DoesNotDependOnTheBlockForAGivenMask) {
  const Layer l = layer(24, 96, true);
  auto narrow = l.weights, wide = l.weights;
  FixedMask rule(96);
  ASSERT_TRUE(sweep_columns(l.view(narrow), l.square, rule, {8, 0.01}).ok());
  ASSERT_TRUE(sweep_columns(l.view(wide), l.square, rule, {96, 0.01}).ok());
  EXPECT_EQ(narrow, wide);
}

TEST(Sweep, LeavesKeptWeightsAloneWhenInputsAreUncorrelated) {
  const Layer l = layer(24, 96, false);
  auto w = l.weights;
  FixedMask rule(96);
  ASSERT_TRUE(sweep_columns(l.view(w), l.square, rule).ok());
  for (std::size_t i = 0; i < w.size(); ++i) EXPECT_TRUE(w[i] == 0 || w[i] == l.weights[i]) << i;
}

TEST(Sweep, IsTheSameForAnyThreadCount) {
  const Layer l = layer(64, 96, true);
  const auto run = [&](int threads) {
    auto w = l.weights;
    FixedMask rule(96);
    tbb::task_arena(threads).execute([&] { EXPECT_TRUE(sweep_columns(l.view(w), l.square, rule, {16, 0.01}).ok()); });
    return w;
  };
  EXPECT_EQ(run(1), run(5));
}

TEST(Sweep, ZeroesTheWeightsOfDeadInputs) {
  Layer l = layer(8, 32, true);
  for (std::int64_t k = 0; k < 32; ++k) l.square(5, k) = l.square(k, 5) = 0;
  auto w = l.weights;
  QuarterGrid rule;
  const auto report = sweep_columns(l.view(w), l.square, rule);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->dead_columns, 1);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(w[i * 32 + 5], 0);
}

TEST(Sweep, SaysWhenTheGramIsNotPositiveDefinite) {
  Layer l = layer(2, 4, false);
  l.square(2, 2) = -100;
  auto w = l.weights;
  QuarterGrid rule;
  EXPECT_EQ(sweep_columns(l.view(w), l.square, rule).error().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace fettle::kit
