// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/attention.h"

#include "fettle_kit/nn/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace fettle::kit {
namespace {

struct Sequence {
  std::int64_t length = 0, heads = 0, kv_heads = 0, dim = 0;
  std::vector<float> q, k, v;

  ConstMatrix queries() const { return {q.data(), length, heads * dim}; }
  ConstMatrix keys() const { return {k.data(), length, kv_heads * dim}; }
  ConstMatrix values() const { return {v.data(), length, kv_heads * dim}; }
};

Sequence random_sequence(std::int64_t length, std::int64_t heads, std::int64_t kv_heads, std::int64_t dim) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  Sequence s{length, heads, kv_heads, dim, {}, {}, {}};
  for (std::int64_t i = 0; i < length * heads * dim; ++i) s.q.push_back(normal(random));
  for (std::int64_t i = 0; i < length * kv_heads * dim; ++i)
    s.k.push_back(normal(random)), s.v.push_back(normal(random));
  return s;
}

std::vector<float> attended(const Sequence& s, const AttentionShape& shape) {
  std::vector<float> out(s.q.size());
  attention(MutMatrix(out.data(), s.length, s.heads * s.dim), s.queries(), s.keys(), s.values(), shape, 0);
  return out;
}

TEST(Attention, FirstPositionCopiesItsValue) {
  const Sequence s = random_sequence(3, 2, 2, 4);
  const auto out = attended(s, {2, 2, 4, 0.5f, 0, 0});
  EXPECT_TRUE(std::equal(s.v.begin(), s.v.begin() + 8, out.begin()));
}

TEST(Attention, WeighsTwoValuesBySoftmaxOfScores) {
  Sequence s{2, 1, 1, 2, {0, 0, 1, 0}, {2, 0, 4, 0}, {1, 0, 0, 1}};
  const auto out = attended(s, {1, 1, 2, 0.5f, 0, 0});
  const float first = 1 / (1 + std::exp(1.0f));  // scores 1 and 2
  EXPECT_THAT(std::vector<float>(out.begin() + 2, out.end()),
              testing::Pointwise(testing::FloatNear(1e-6f), {first, 1 - first}));
}

TEST(Attention, SoftcapBendsScores) {
  Sequence s{2, 1, 1, 2, {0, 0, 1, 0}, {2, 0, 4, 0}, {1, 0, 0, 1}};
  const auto out = attended(s, {1, 1, 2, 0.5f, 1.5f, 0});
  const float gap = 1.5f * (std::tanh(2 / 1.5f) - std::tanh(1 / 1.5f));
  EXPECT_NEAR(out[2], 1 / (1 + std::exp(gap)), 1e-6);
}

TEST(Attention, WindowOfOneSeesItselfOnly) {
  const Sequence s = random_sequence(5, 2, 1, 4);
  const auto out = attended(s, {2, 1, 4, 0.5f, 0, 1});
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t j = 0; j < 8; ++j) EXPECT_EQ(out[t * 8 + j], s.v[t * 4 + j % 4]);
}

TEST(Attention, AgreesWithTheReference) {
  for (const AttentionShape& shape : {AttentionShape{6, 2, 24, 0.2f, 0, 0}, AttentionShape{4, 4, 64, 0.125f, 5, 0},
                                      AttentionShape{4, 1, 10, 0.3f, 0, 33}}) {
    const Sequence s = random_sequence(200, shape.heads, shape.kv_heads, shape.head_dim);
    std::vector<float> expected(s.q.size());
    reference::attention(MutMatrix(expected.data(), s.length, s.heads * s.dim), s.queries(), s.keys(), s.values(),
                         shape, 0);
    EXPECT_THAT(attended(s, shape), testing::Pointwise(testing::FloatNear(2e-6f), expected));
  }
}

TEST(Attention, CachedKeysGiveTheSameBitsAsTheWholeSequence) {
  const Sequence s = random_sequence(300, 4, 2, 16);
  for (const std::int64_t window : {0, 70}) {
    const AttentionShape shape{4, 2, 16, 0.25f, 0, window};
    const auto whole = attended(s, shape);
    for (const std::int64_t first : {0, 1, 127, 128, 129, 299}) {
      const std::int64_t count = std::min<std::int64_t>(3, 300 - first);
      std::vector<float> out(static_cast<std::size_t>(count * 64));
      attention(MutMatrix(out.data(), count, 64), s.queries().rows_from(first, count),
                s.keys().rows_from(0, first + count), s.values().rows_from(0, first + count), shape, first);
      EXPECT_TRUE(std::equal(out.begin(), out.end(), whole.begin() + first * 64))
          << "first " << first << " window " << window;
    }
  }
}

}  // namespace
}  // namespace fettle::kit
