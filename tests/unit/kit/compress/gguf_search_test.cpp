// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_search.h"

#include "fettle_kit/compress/gguf_blocks.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/block_codec.h"

#include "unit/kit/compress/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

using test::kCols;
using test::kRows;

constexpr DType kTypes[] = {DType::q4_0, DType::q5_0, DType::q2_k, DType::q3_k, DType::q4_k, DType::q5_k, DType::q6_k};

std::vector<std::byte> compatible(DType type, const std::vector<float>& x, const float* importance) {
  std::vector<std::byte> out(bytes_of(type, x.size()));
  quantize_rows(type, x.data(), out.data(), static_cast<std::int64_t>(x.size()) / kCols, kCols, importance);
  return out;
}

std::vector<std::byte> better(Vectors vectors, DType type, const std::vector<float>& x, const float* importance) {
  std::vector<std::byte> out = compatible(type, x, importance);
  better_rows_with(vectors, type, x.data(), out.data(), static_cast<std::int64_t>(x.size()) / kCols, kCols, importance);
  return out;
}

/// Sum over all weights of importance * (x - stored)^2.
double error_of(DType type, const std::vector<float>& x, const std::vector<std::byte>& blocks,
                const float* importance) {
  std::vector<float> stored(x.size());
  decode_blocks(type, blocks.data(), stored.data(), stored.size());
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = static_cast<double>(x[i]) - static_cast<double>(stored[i]);
    sum += (importance != nullptr ? static_cast<double>(importance[i % kCols]) : 1.0) * difference * difference;
  }
  return sum;
}

TEST(BetterRows, KnowsTypesWithScalesToSearch) {
  for (const DType type : kTypes) EXPECT_TRUE(has_better_search(type, false)) << info(type).name;
  for (const DType type :
       {DType::f16, DType::q8_0, DType::q4_1, DType::iq4_nl, DType::iq4_xs, DType::tq1_0, DType::mxfp4})
    EXPECT_FALSE(has_better_search(type, false)) << info(type).name;
  EXPECT_TRUE(has_better_search(DType::q4_k, true));
  EXPECT_FALSE(has_better_search(DType::q2_k, true));
}

TEST(BetterRows, ErrLessThanGgml) {
  const std::vector<float> importance = test::importance();
  for (const DType type : kTypes)
    for (const std::string_view distribution : test::kDistributions)
      for (const float* const q : {static_cast<const float*>(nullptr), importance.data()}) {
        const std::vector<float> x = test::weights(distribution);
        const double before = error_of(type, x, compatible(type, x, q), q),
                     after = error_of(type, x, better(kernels().vectors, type, x, q), q);
        EXPECT_LT(after, before) << info(type).name << " " << distribution << (q != nullptr ? " weighted" : "");
      }
}

TEST(BetterRows, EveryInstructionSetGivesTheSameBytes) {
  const std::vector<float> importance = test::importance();
  for (const DType type : kTypes)
    for (const std::string_view distribution : test::kDistributions)
      for (const float* const q : {static_cast<const float*>(nullptr), importance.data()}) {
        const std::vector<float> x = test::weights(distribution);
        const auto expected = better(Vectors::none, type, x, q);
        for (const KernelTable* table : usable_kernels())
          EXPECT_EQ(better(table->vectors, type, x, q), expected)
              << table->name << " " << info(type).name << " " << distribution;
      }
}

TEST(BetterRows, AreExactWhereTheFormatIs) {
  std::vector<float> x(kCols);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.5f * static_cast<float>(static_cast<int>(i * 5 % 15) - 7);
  EXPECT_GT(error_of(DType::q4_0, x, compatible(DType::q4_0, x, nullptr), nullptr), 0);
  EXPECT_EQ(error_of(DType::q4_0, x, better(kernels().vectors, DType::q4_0, x, nullptr), nullptr), 0);
}

TEST(BetterRows, LeaveAloneWhatCannotBeBeaten) {
  const std::vector<float> zeros(kCols), importance(kCols), ordinary = test::weights("normal", 1);
  for (const DType type : kTypes) {
    EXPECT_EQ(better(kernels().vectors, type, zeros, nullptr), compatible(type, zeros, nullptr)) << info(type).name;
    // Columns of no importance have no error.
    EXPECT_EQ(better(kernels().vectors, type, ordinary, importance.data()),
              compatible(type, ordinary, importance.data()))
        << info(type).name;
  }
  // Scales beyond f16: there is no finite one to find.
  const std::vector<float> huge(kCols, 1e30f);
  for (const DType type : {DType::q4_0, DType::q5_0})
    EXPECT_EQ(better(kernels().vectors, type, huge, nullptr), compatible(type, huge, nullptr)) << info(type).name;
}

}  // namespace
}  // namespace fettle::kit
