// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/linalg/factor.h"

#include <Eigen/Dense>
#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <random>

namespace fettle::kit {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// X^T X / rows + 0.01 I of correlated normal X: what a damped calibration Gram looks like.
Square positive_definite(std::int64_t n, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Matrix x(2 * n, n);
  for (std::int64_t i = 0; i < x.rows(); ++i) {
    const double common = normal(random);
    for (std::int64_t j = 0; j < n; ++j) x(i, j) = normal(random) + common;
  }
  const Matrix gram = x.transpose() * x / static_cast<double>(x.rows()) + 0.01 * Matrix::Identity(n, n);
  Square a(n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) a(i, j) = gram(i, j);
  return a;
}

Matrix eigen(const Square& a) { return Eigen::Map<const Matrix>(a.row(0), a.size(), a.size()); }

class Sizes : public ::testing::TestWithParam<std::int64_t> {
};  // within a block, a whole one, over one, several and a rest

TEST_P(Sizes, CholeskyEqualsEigens) {
  Square a = positive_definite(GetParam());
  const Matrix expected = Matrix(eigen(a).llt().matrixL());
  ASSERT_TRUE(cholesky(a).ok());
  const Matrix lower = eigen(a).triangularView<Eigen::Lower>();
  EXPECT_LE((lower - expected).norm(), 1e-12 * expected.norm());
}

TEST_P(Sizes, InverseOfALowerTriangleTimesItIsTheIdentity) {
  Square l = positive_definite(GetParam());
  ASSERT_TRUE(cholesky(l).ok());
  const Matrix before = eigen(l).triangularView<Eigen::Lower>();
  invert_lower(l);
  const Matrix inverse = eigen(l).triangularView<Eigen::Lower>();
  EXPECT_LE((inverse * before - Matrix::Identity(GetParam(), GetParam())).norm(),
            1e-11 * static_cast<double>(GetParam()));
}

TEST_P(Sizes, UpperFactorSquaredIsTheInverse) {
  const Square a = positive_definite(GetParam());
  const auto u = inverse_upper_factor(a);
  ASSERT_TRUE(u.ok());
  const Matrix upper = eigen(*u);
  EXPECT_TRUE(upper.isUpperTriangular(0));
  EXPECT_LE((upper.transpose() * upper * eigen(a) - Matrix::Identity(GetParam(), GetParam())).norm(),
            1e-10 * static_cast<double>(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Orders, Sizes, ::testing::Values(1, 5, 64, 65, 150, 200));

TEST(UpperFactor, IsTheSameForAnyThreadCount) {
  const Square a = positive_definite(200);
  const auto factor = [&](int threads) {
    return tbb::task_arena(threads).execute([&] { return eigen(*inverse_upper_factor(a)); });
  };
  EXPECT_EQ(factor(1), factor(4));
}

TEST(Cholesky, NamesThePivotThatIsNotPositive) {
  Square a(2);
  a(0, 0) = 1;
  a(1, 0) = 2;
  a(1, 1) = 1;
  EXPECT_EQ(cholesky(a).message(), "the matrix is not positive definite: pivot 2 of 2 is -3");
}

}  // namespace
}  // namespace fettle::kit
