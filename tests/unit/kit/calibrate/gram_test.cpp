// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/gram.h"

#include "kernels/kernel_testing.h"

#include <gtest/gtest.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace fettle::kit {
namespace {

constexpr std::int64_t kWidth = 530;  // more than one panel of the product

Gram gram_of(const std::vector<float>& rows, std::int64_t portion) {
  Gram gram(kWidth);
  const ConstMatrix x(rows.data(), static_cast<std::int64_t>(rows.size()) / kWidth, kWidth);
  for (std::int64_t first = 0; first < x.rows; first += portion)
    gram.add(x.rows_from(first, std::min(portion, x.rows - first)));
  return gram;
}

TEST(Gram, SumsProductsOfColumnsOverAllRows) {
  Random random(3);
  const std::vector<float> x = random.row(7 * kWidth);
  const Gram gram = gram_of(x, 3);
  EXPECT_EQ(gram.rows(), 7);
  for (std::int64_t i = 0; i < kWidth; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (std::int64_t t = 0; t < 7; ++t)
        sum += double{x[static_cast<std::size_t>(t * kWidth + i)]} * x[static_cast<std::size_t>(t * kWidth + j)];
      ASSERT_NEAR(gram.sum()(i, j), sum, 1e-5) << i << ", " << j;
    }
}

TEST(Gram, IsTheSameForAnyNumberOfThreads) {
  Random random(4);
  const std::vector<float> x = random.row(40 * kWidth);
  const auto with = [&](int threads) {
    const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
    std::vector<double> sums;
    tbb::task_arena(threads).execute([&] {
      const Gram gram = gram_of(x, 16);
      for (std::int64_t i = 0; i < kWidth; ++i) sums.insert(sums.end(), gram.sum().row(i), gram.sum().row(i) + i + 1);
    });
    return sums;
  };
  const auto one = with(1);
  for (const int threads : {2, 3, 7}) {
    const auto many = with(threads);
    EXPECT_EQ(std::memcmp(many.data(), one.data(), one.size() * sizeof(double)), 0) << threads;
  }
}

}  // namespace
}  // namespace fettle::kit
