// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/cheapest_zeros.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <utility>
#include <vector>

namespace fettle::kit {
namespace {

constexpr std::int64_t rows = 24, cols = 96;

/// What SparseGPT does with them.
class Prune final : public SweepRule {
 public:
  explicit Prune(const SparsityTarget& target) : zeros(rows, cols, target) {}
  void begin_block(std::int64_t first, ConstMatrix w, std::span<const double> diagonal) override {
    zeros.begin_block(first, w, diagonal);
  }
  float value(std::int64_t row, std::int64_t column, std::span<const float> rest,
              std::span<const double> diagonal) override {
    zeros.reach(row, 1, column, rest.data(), 0, diagonal);
    return zeros.mask().kept(row, column) ? rest[0] : 0.0F;
  }
  CheapestZeros zeros;
};

std::vector<float> random_weights() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(rows * cols);
  for (float& v : w) v = normal(random);
  return w;
}

Square uncorrelated() {
  Square gram(cols);
  for (std::int64_t j = 0; j < cols; ++j) gram(j, j) = 5;
  return gram;
}

/// Of inputs with a common part, each of its own size.
Square correlated() {
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  Square gram(cols);
  std::vector<double> x(cols);
  for (int n = 0; n < 16 * cols; ++n) {
    const double common = normal(random);
    for (std::size_t j = 0; j < cols; ++j) x[j] = (normal(random) + common) * (0.3 + static_cast<double>(j % 7));
    for (std::int64_t i = 0; i < cols; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        gram(i, j) += x[static_cast<std::size_t>(i)] * x[static_cast<std::size_t>(j)];
  }
  return gram;
}

struct Pruned {
  std::vector<float> weights;
  Mask mask;
};
Pruned prune(const Square& gram, const SparsityTarget& target, std::int64_t block) {
  Pruned result{random_weights(), {}};
  Prune rule(target);
  EXPECT_TRUE(sweep_columns({result.weights.data(), rows, cols}, gram, rule, {block, 0.01}).ok());
  result.mask = std::move(rule.zeros).take_mask();
  return result;
}

SparsityTarget share(double value, Group group = Group::matrix) { return {value, group, std::nullopt}; }
SparsityTarget pattern(int n, int m) { return {0, Group::matrix, NofM{n, m}}; }

// Without correlations nothing can be made up for, and the cheapest weight is the smallest.
TEST(CheapestZeros, AreTheSmallestWhereInputsAreUncorrelated) {
  for (const SparsityTarget& target : {share(0.5), share(0.3, Group::row), pattern(2, 4)}) {
    const Pruned result = prune(uncorrelated(), target, cols);
    std::vector<float> magnitudes = random_weights();
    for (float& w : magnitudes) w = std::fabs(w);
    EXPECT_EQ(result.mask, mask_of(ConstMatrix(magnitudes.data(), rows, cols), target));
    const std::vector<float> before = random_weights();
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j) {
        const auto at = static_cast<std::size_t>(i * cols + j);
        EXPECT_EQ(result.weights[at], result.mask.kept(i, j) ? before[at] : 0.0F);
      }
  }
}

TEST(CheapestZeros, OfGroupsDoNotDependOnTheBlock) {
  const Pruned wide = prune(correlated(), pattern(2, 4), cols), narrow = prune(correlated(), pattern(2, 4), 8);
  EXPECT_EQ(wide.mask, narrow.mask);
  EXPECT_EQ(wide.weights, narrow.weights);
}

TEST(CheapestZeros, TakeTheExactShareOfEachBlock) {
  const Pruned result = prune(correlated(), share(0.25), 32);
  for (std::int64_t first = 0; first < cols; first += 32) {
    int pruned = 0;
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = first; j < first + 32; ++j) pruned += !result.mask.kept(i, j);
    EXPECT_EQ(pruned, rows * 32 / 4);
  }
}

TEST(CheapestZeros, AreExactlyZeroAndNoOthers) {
  for (const SparsityTarget& target : {share(0.5), pattern(4, 8)}) {
    const Pruned result = prune(correlated(), target, 32);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        EXPECT_EQ(result.weights[static_cast<std::size_t>(i * cols + j)] != 0, result.mask.kept(i, j));
  }
}

// Chosen from weights that the columns before have changed: the first block alone can agree with the original weights.
TEST(CheapestZeros, AreChosenByCompensatedWeights) {
  const Pruned wide = prune(correlated(), share(0.5), cols), narrow = prune(correlated(), share(0.5), 32);
  EXPECT_FALSE(wide.mask == narrow.mask);
}

}  // namespace
}  // namespace fettle::kit
