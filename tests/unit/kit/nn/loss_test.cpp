// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/loss.h"

#include "fettle_kit/nn/loss_reference.h"
#include "fettle_kit/tensor/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

using Row = std::vector<double>;

/// Logits spread like a trained model's: a few high ones.
Row logits(std::size_t n, std::uint64_t seed, double width = 3) {
  Row x(n);
  for (std::size_t i = 0; i < n; ++i) {
    double sum = -6;
    for (std::uint64_t j = 0; j < 12; ++j) sum += philox_uniform(seed, j, i);
    x[i] = width * sum;
  }
  return x;
}

std::vector<float> narrow(const Row& x) { return {x.begin(), x.end()}; }
Row widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }
/// What the fast and the reference functions can both hold.
Row as_floats(const Row& x) { return widen(narrow(x)); }

struct Case {
  std::string name;
  LossSpec spec;
};

LossSpec spec_of(Divergence divergence, float temperature = 1, float share = 0.5F) {
  LossSpec spec;
  spec.divergence = divergence;
  spec.temperature = temperature;
  spec.beta = spec.alpha = spec.tau = share;
  return spec;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const float t : {1.0F, 2.0F, 0.7F}) {
    const std::string at = t == 1 ? "_t1" : t == 2 ? "_t2" : "_t07";
    all.push_back({"forward_kl" + at, spec_of(Divergence::forward_kl, t)});
    all.push_back({"reverse_kl" + at, spec_of(Divergence::reverse_kl, t)});
    for (const float b : {0.0F, 0.1F, 0.5F, 0.9F, 1.0F})
      all.push_back(
          {"jsd_" + std::to_string(static_cast<int>(10 * b)) + at, spec_of(Divergence::jensen_shannon, t, b)});
    all.push_back({"skew_forward" + at, spec_of(Divergence::skew_forward_kl, t, 0.1F)});
    all.push_back({"skew_reverse" + at, spec_of(Divergence::skew_reverse_kl, t, 0.1F)});
    all.push_back({"taid" + at, spec_of(Divergence::taid, t, 0.4F)});
  }
  return all;
}

class Divergences : public ::testing::TestWithParam<Case> {};

/// Gradient by central differences in f64: step 1e-5, so the error is about 1e-10 of the third derivative and 1e-11 of
/// rounding.
template <class Value>
Row differences(const Row& z, const Value& value) {
  constexpr double step = 1e-5;
  Row gradient(z.size());
  for (std::size_t i = 0; i < z.size(); ++i) {
    Row up = z, down = z;
    up[i] += step, down[i] -= step;
    gradient[i] = (value(up) - value(down)) / (2 * step);
  }
  return gradient;
}

double distance(const Row& a, const Row& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::fabs(a[i] - b[i]));
  return worst;
}

TEST_P(Divergences, GradientOfTheReferenceIsThatOfItsValue) {
  const Row z = logits(23, 1), t = logits(23, 2);
  LossSpec spec = GetParam().spec;
  Row gradient(z.size()), unused(z.size());
  reference::dense_loss(gradient, z, t, 4, spec, {0.3, 0.7});
  Row target = t;
  if (spec.divergence == Divergence::taid) {  // its target is held fixed
    for (std::size_t i = 0; i < t.size(); ++i) target[i] = z[i] + double{spec.tau} * (t[i] - z[i]);
    spec.divergence = Divergence::forward_kl;
  }
  const Row expected = differences(z, [&](const Row& x) {
    const RowLoss loss = reference::dense_loss(unused, x, target, 4, spec, {0.3, 0.7});
    return 0.3 * loss.cross_entropy + 0.7 * loss.divergence;
  });
  EXPECT_LT(distance(gradient, expected), 1e-8);
}

TEST_P(Divergences, FastEqualsReference) {
  for (const std::size_t n : {2, 16, 37, 1000}) {
    const Row z = as_floats(logits(n, 3)), t = as_floats(logits(n, 4));
    Row gradient(n);
    const RowLoss expected = reference::dense_loss(gradient, z, t, 1, GetParam().spec, {0.5, 2});
    std::vector<float> fast = narrow(z), teacher = narrow(t);
    const RowLoss found = dense_loss(fast, teacher, 1, GetParam().spec, {0.5, 2});
    EXPECT_NEAR(found.cross_entropy, expected.cross_entropy, 2e-6) << n;
    EXPECT_NEAR(found.divergence, expected.divergence, 1e-5 * (1 + expected.divergence)) << n;
    EXPECT_LT(distance(widen(fast), gradient), 3e-6) << n;  // f32 softmax of logits up to 15, times T
  }
}

TEST_P(Divergences, GradientSumsToZero) {
  const Row z = logits(500, 5), t = logits(500, 6);
  std::vector<float> fast = narrow(z), teacher = narrow(t);
  dense_loss(fast, teacher, 7, GetParam().spec, {1, 1});
  EXPECT_NEAR(std::accumulate(fast.begin(), fast.end(), 0.0), 0, 1e-6);
}

TEST_P(Divergences, StudentEqualToTeacherHasNeitherLossNorGradientToTheBit) {
  const std::vector<float> z = narrow(logits(333, 7));
  std::vector<float> student = z, teacher = z;
  const RowLoss loss = dense_loss(student, teacher, -1, GetParam().spec, {0, 1});
  EXPECT_EQ(loss.divergence, 0);
  for (const float g : student) ASSERT_EQ(g, 0.0F);
}

TEST_P(Divergences, AConstantAddedToEitherRowChangesNothing) {
  const Row z = logits(100, 8), t = logits(100, 9);
  Row moved_z = z, moved_t = t, gradient(100), moved(100);
  for (double& x : moved_z) x += 3;
  for (double& x : moved_t) x -= 11;
  LossSpec spec = GetParam().spec;
  const double a = reference::dense_loss(gradient, z, t, -1, spec, {0, 1}).divergence;
  const double b = reference::dense_loss(moved, moved_z, moved_t, -1, spec, {0, 1}).divergence;
  EXPECT_NEAR(a, b, 1e-12 * (1 + a));
  EXPECT_LT(distance(gradient, moved), 1e-12);
  std::vector<float> fast = narrow(moved_z), teacher = narrow(moved_t);
  EXPECT_NEAR(dense_loss(fast, teacher, -1, spec, {0, 1}).divergence, a, 2e-5 * (1 + a));
  EXPECT_LT(distance(widen(fast), gradient), 1e-5);
}

TEST_P(Divergences, AllTokensKnownEqualsDense) {
  if (GetParam().spec.divergence == Divergence::taid) GTEST_SKIP() << "taid wants all logits of the teacher";
  const Row z = as_floats(logits(64, 10)), t = logits(64, 11);
  RowTargets targets;
  std::vector<std::int32_t> ids(64);
  std::vector<float> log_p(64);
  double sum = 0;
  for (const double x : t) sum += std::exp(x / GetParam().spec.temperature);
  for (std::size_t i = 0; i < 64; ++i) {
    ids[i] = static_cast<std::int32_t>(63 - i);
    log_p[i] = static_cast<float>(t[63 - i] / GetParam().spec.temperature - std::log(sum));
  }
  targets.ids = ids, targets.log_probabilities = log_p;
  std::vector<float> dense = narrow(z), teacher = narrow(t), sparse = narrow(z);
  const RowLoss a = dense_loss(dense, teacher, 3, GetParam().spec, {1, 1});
  const RowLoss b = sparse_loss(sparse, targets, 3, GetParam().spec, {1, 1});
  EXPECT_NEAR(a.divergence, b.divergence, 1e-5 * (1 + a.divergence));
  EXPECT_EQ(a.cross_entropy, b.cross_entropy);
  EXPECT_LT(distance(widen(dense), widen(sparse)), 3e-6);
}

TEST_P(Divergences, MissingTokensOfTheTeacherHaveNoProbability) {
  const LossSpec spec = GetParam().spec;
  if (spec.divergence == Divergence::taid || spec.divergence == Divergence::reverse_kl ||
      (spec.divergence == Divergence::jensen_shannon && spec.beta == 1))
    GTEST_SKIP() << "infinite, or without meaning";
  const Row z = logits(40, 12);
  Row t = logits(37, 13);
  std::vector<float> shorter = narrow(z), teacher = narrow(t);
  const RowLoss a = dense_loss(shorter, teacher, -1, spec, {0, 1});
  t.resize(40, -300);  // e^-300 is nothing
  std::vector<float> padded = narrow(z), padded_teacher = narrow(t);
  const RowLoss b = dense_loss(padded, padded_teacher, -1, spec, {0, 1});
  EXPECT_NEAR(a.divergence, b.divergence, 1e-5);
  EXPECT_LT(distance(widen(shorter), widen(padded)), 1e-6);
  for (std::size_t i = 37; i < 40; ++i) EXPECT_GT(shorter[i], 0.0F) << "mass there must shrink";
}

TEST_P(Divergences, NaNInALogitMakesTheLossNaN) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> z = narrow(logits(50, 14)), t = narrow(logits(50, 15));
    std::vector<float> other = t, spoilt = z;
    z[20] = bad;
    EXPECT_TRUE(std::isnan(dense_loss(z, t, 1, GetParam().spec, {1, 1}).divergence));
    other[20] = bad;
    EXPECT_TRUE(std::isnan(dense_loss(spoilt, other, 1, GetParam().spec, {1, 1}).divergence));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Divergences, ::testing::ValuesIn(cases()), [](const auto& c) { return c.param.name; });

TEST(Loss, TemperatureSquaredKeepsTheGradientAboutAsLarge) {
  const Row z = logits(2000, 16, 1), t = logits(2000, 17, 1);
  double norms[3];
  int at = 0;
  for (const float temperature : {2.0F, 4.0F, 8.0F}) {
    std::vector<float> fast = narrow(z), teacher = narrow(t);
    dense_loss(fast, teacher, -1, spec_of(Divergence::forward_kl, temperature), {0, 1});
    norms[at++] = std::sqrt(std::inner_product(fast.begin(), fast.end(), fast.begin(), 0.0));
  }
  EXPECT_LT(norms[0] / norms[2], 1.5);
  EXPECT_GT(norms[0] / norms[2], 0.67);
}

TEST(Loss, JensenShannonIsSymmetricAndAtMostLn2) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Row z = logits(30, 2 * seed, 8), t = logits(30, 2 * seed + 1, 8);
    std::vector<float> a = narrow(z), b = narrow(t), c = narrow(t), d = narrow(z);
    const LossSpec spec = spec_of(Divergence::jensen_shannon);
    const double there = dense_loss(a, b, -1, spec, {0, 1}).divergence,
                 back = dense_loss(c, d, -1, spec, {0, 1}).divergence;
    EXPECT_NEAR(there, back, 1e-6);
    EXPECT_LE(there, std::log(2.0) + 1e-6);
  }
  // Far apart it reaches ln 2.
  std::vector<float> a{40, -40}, b{-40, 40};
  EXPECT_NEAR(dense_loss(a, b, -1, spec_of(Divergence::jensen_shannon), {0, 1}).divergence, std::log(2.0), 1e-6);
}

TEST(Loss, HandMadeCrossEntropy) {
  std::vector<float> z{0, 0, 0, 0};
  const RowLoss loss = label_loss(z, 2, 0.5);
  EXPECT_NEAR(loss.cross_entropy, std::log(4.0), 1e-7);
  EXPECT_EQ(z, (std::vector<float>{0.125F, 0.125F, -0.375F, 0.125F}));
}

TEST(Loss, AScaleOfZeroLeavesNoGradient) {
  std::vector<float> z = narrow(logits(20, 18)), t = narrow(logits(20, 19));
  dense_loss(z, t, 4, spec_of(Divergence::forward_kl), {0, 0});
  for (const float g : z) EXPECT_EQ(g, 0.0F);
}

/// The k most likely tokens of a teacher, as distill.targets caches them.
struct Top {
  std::vector<std::int32_t> ids;
  std::vector<float> log_p;
  Top(const Row& t, std::size_t k) {
    ids.resize(t.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::ranges::stable_sort(
        ids, [&](auto a, auto b) { return t[static_cast<std::size_t>(a)] > t[static_cast<std::size_t>(b)]; });
    ids.resize(k);
    double sum = 0;
    for (const double x : t) sum += std::exp(x);
    for (const auto id : ids) log_p.push_back(static_cast<float>(t[static_cast<std::size_t>(id)] - std::log(sum)));
  }
  RowTargets row(bool tail) const { return {ids, log_p, tail}; }
};

double norm(const std::vector<float>& x) { return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)); }

TEST(SparseLoss, BucketsAreZeroAtTheTeacherAndARenormalisedTopKIsNot) {
  const Row t = logits(4096, 20, 1);
  const Top top(t, 32);
  std::vector<float> bucket = narrow(t), renormalised = narrow(t);
  const RowLoss loss = sparse_loss(bucket, top.row(true), -1, spec_of(Divergence::forward_kl), {0, 1});
  sparse_loss(renormalised, top.row(false), -1, spec_of(Divergence::forward_kl), {0, 1});
  EXPECT_NEAR(loss.divergence, 0, 1e-6);
  EXPECT_LT(norm(bucket), 1e-6);
  EXPECT_GT(norm(renormalised), 0.05);
}

TEST(SparseLoss, FastEqualsReferenceAndItsGradientItsValue) {
  for (const auto divergence : {Divergence::forward_kl, Divergence::reverse_kl, Divergence::jensen_shannon}) {
    for (const bool tail : {true, false}) {
      const Row z = as_floats(logits(50, 21)), t = logits(50, 22);
      const LossSpec spec = spec_of(divergence, 2);
      Row at_t = t;
      for (double& x : at_t) x /= 2;
      const Top top(at_t, 7);
      Row gradient(50), unused(50);
      const RowLoss expected = reference::sparse_loss(gradient, z, top.row(tail), 3, spec, {0.4, 0.6});
      EXPECT_LT(distance(gradient,
                         differences(
                             z,
                             [&](const Row& x) {
                               const RowLoss l = reference::sparse_loss(unused, x, top.row(tail), 3, spec, {0.4, 0.6});
                               return 0.4 * l.cross_entropy + 0.6 * l.divergence;
                             })),
                1e-8);
      std::vector<float> fast = narrow(z);
      const RowLoss found = sparse_loss(fast, top.row(tail), 3, spec, {0.4, 0.6});
      EXPECT_NEAR(found.divergence, expected.divergence, 1e-5 * (1 + expected.divergence));
      EXPECT_LT(distance(widen(fast), gradient), 2e-6);
    }
  }
}

TEST(SparseLoss, EmptyPlacesDoNotCount) {
  const std::vector<std::int32_t> packed{5, 2}, gaps{-1, 5, -1, 2};
  const std::vector<float> packed_p{-1, -2}, gaps_p{9, -1, 9, -2};
  for (const bool tail : {true, false}) {
    std::vector<float> a = narrow(logits(9, 23)), b = a;
    const double x = sparse_loss(a, {packed, packed_p, tail}, -1, spec_of(Divergence::forward_kl), {0, 1}).divergence;
    const double y = sparse_loss(b, {gaps, gaps_p, tail}, -1, spec_of(Divergence::forward_kl), {0, 1}).divergence;
    EXPECT_EQ(x, y);
    EXPECT_EQ(a, b);
  }
}

TEST(SparseLoss, TheMeanOverDrawsIsTheDenseGradient) {
  constexpr std::size_t n = 12;
  const Row z = logits(n, 24), t = logits(n, 25, 1);
  std::vector<float> dense = narrow(z), teacher = narrow(t);
  dense_loss(dense, teacher, -1, spec_of(Divergence::forward_kl), {0, 1});
  Row p(n), mean(n);
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += p[i] = std::exp(t[i]);
  constexpr int rows = 4000, draws = 8;
  for (std::uint64_t row = 0; row < rows; ++row) {
    std::vector<int> counts(n);
    for (std::uint64_t d = 0; d < draws; ++d) {
      double u = philox_uniform(1, row, d) * sum;
      std::size_t i = 0;
      while (i + 1 < n && u >= p[i]) u -= p[i++];
      ++counts[i];
    }
    std::vector<std::int32_t> ids;
    std::vector<float> log_p;
    for (std::size_t i = 0; i < n; ++i)
      if (counts[i] > 0)
        ids.push_back(static_cast<std::int32_t>(i)), log_p.push_back(std::log(counts[i] / float{draws}));
    std::vector<float> gradient = narrow(z);
    sparse_loss(gradient, {ids, log_p, false}, -1, spec_of(Divergence::forward_kl), {0, 1});
    for (std::size_t i = 0; i < n; ++i) mean[i] += gradient[i] / double{rows};
  }
  // 32,000 draws: a share's standard error is at most 0.5 / sqrt(32,000) = 0.0028.
  EXPECT_LT(distance(mean, widen(dense)), 4 * 0.0028);
}

}  // namespace
}  // namespace fettle::kit
