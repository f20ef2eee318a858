// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/attention.h"

#include "kernels/kernel_testing.h"

#include <tbb/global_control.h>
#include <tbb/task_arena.h>

namespace fettle::kit {
namespace {

struct AttentionCase {
  const char* name;
  CausalHeads heads;
  std::int64_t queries, keys;
};

struct Problem {
  CausalHeads heads;
  Owned q, k, v;

  Problem(const AttentionCase& c, Random& random)
      : heads(c.heads),
        q(c.queries, c.heads.heads * c.heads.head_dim, c.heads.heads * c.heads.head_dim + 3, random),
        k(c.keys, c.heads.kv_heads * c.heads.head_dim, c.heads.kv_heads * c.heads.head_dim + 1, random),
        v(c.keys, c.heads.kv_heads * c.heads.head_dim, c.heads.kv_heads * c.heads.head_dim, random) {}

  std::vector<float> run(const KernelTable& table) const { return run(table, q, k, v); }
  std::vector<float> run(const KernelTable& table, ConstMatrix queries, ConstMatrix keys, ConstMatrix values) const {
    std::vector<float> out(static_cast<std::size_t>(queries.rows * queries.cols));
    causal_attention(MutMatrix(out.data(), queries.rows, queries.cols), queries, keys, values, heads, table);
    return out;
  }

  /// Row by row in f64, with all scores at once.
  std::vector<double> naive() const {
    const ConstMatrix qs = q, ks = k, vs = v;
    std::vector<double> out(static_cast<std::size_t>(q.rows * q.cols));
    const std::int64_t dim = heads.head_dim;
    for (std::int64_t t = 0; t < q.rows; ++t) {
      const std::int64_t position = k.rows - q.rows + t;
      for (std::int64_t h = 0; h < heads.heads; ++h) {
        const std::int64_t kv = h / (heads.heads / heads.kv_heads);
        std::vector<double> weight(static_cast<std::size_t>(k.rows), 0.0);
        double total = 0;
        for (std::int64_t s = 0; s <= position; ++s) {
          if (heads.window > 0 && s + heads.window <= position) continue;
          double score = 0;
          for (std::int64_t d = 0; d < dim; ++d) score += double{qs(t, h * dim + d)} * ks(s, kv * dim + d);
          score *= heads.scale;
          if (heads.softcap > 0) score = heads.softcap * std::tanh(score / heads.softcap);
          total += weight[static_cast<std::size_t>(s)] = std::exp(score);
        }
        for (std::int64_t s = 0; s <= position; ++s)
          for (std::int64_t d = 0; d < dim; ++d)
            out[static_cast<std::size_t>(t * q.cols + h * dim + d)] +=
                weight[static_cast<std::size_t>(s)] / total * vs(s, kv * dim + d);
      }
    }
    return out;
  }
};

class Attention : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(Attention, FollowsTheNaiveSum) {
  Random random(1);
  const Problem problem(GetParam(), random);
  const auto got = problem.run(kernels());
  const auto expected = problem.naive();
  // Scores below 10 in size carry errors near 10 * 2^-23, weights the same relatively, values below 2.
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-5) << "element " << i;
}

TEST_P(Attention, IsTheSameForEveryInstructionSet) {
  Random random(2);
  const Problem problem(GetParam(), random);
  const auto expected = problem.run(scalar_kernels);
  for (const KernelTable* table : usable_kernels()) expect_same(problem.run(*table), expected, table->name);
}

TEST_P(Attention, IsTheSameForAnyNumberOfThreads) {
  const tbb::global_control allow(tbb::global_control::max_allowed_parallelism, 7);
  Random random(3);
  const Problem problem(GetParam(), random);
  tbb::task_arena one(1);
  const auto expected = one.execute([&] { return problem.run(kernels()); });
  for (const int threads : {2, 3, 7}) {
    tbb::task_arena arena(threads);
    expect_same(arena.execute([&] { return problem.run(kernels()); }), expected, std::to_string(threads) + " threads");
  }
}

TEST_P(Attention, OfOneQueryAgainstCachedKeysIsThatOfTheWholeSequence) {
  Random random(4);
  const Problem problem(GetParam(), random);
  const auto whole = problem.run(kernels());
  const auto width = static_cast<std::size_t>(problem.q.cols);
  for (std::int64_t t = 0; t < problem.q.rows; t += 7) {
    const std::int64_t keys = problem.k.rows - problem.q.rows + t + 1;
    const auto alone =
        problem.run(kernels(), ConstMatrix(problem.q).rows_from(t, 1), ConstMatrix(problem.k).rows_from(0, keys),
                    ConstMatrix(problem.v).rows_from(0, keys));
    expect_same(alone, std::span(whole).subspan(static_cast<std::size_t>(t) * width, width),
                "query " + std::to_string(t));
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Values(AttentionCase{"one_head", {1, 1, 64, 0.125f, 0, 0}, 150, 150},
                                           AttentionCase{"grouped", {6, 2, 32, 0.2f, 0, 0}, 70, 300},
                                           AttentionCase{"many_to_one", {9, 1, 16, 0.25f, 0, 0}, 40, 40},
                                           AttentionCase{"windowed", {2, 1, 24, 0.2f, 0, 37}, 290, 290},
                                           AttentionCase{"capped", {2, 2, 40, 0.5f, 3, 0}, 140, 141},
                                           AttentionCase{"wide_window_and_cap", {4, 2, 80, 0.1f, 20, 200}, 260, 400},
                                           AttentionCase{"odd_width", {3, 3, 33, 0.2f, 0, 1}, 20, 21},
                                           AttentionCase{"widest", {2, 1, 256, 0.0625f, 0, 0}, 130, 130},
                                           AttentionCase{"one_query", {4, 2, 64, 0.125f, 0, 0}, 1, 257}),
                         [](const auto& shape) { return shape.param.name; });

TEST(AttentionDeathTest, NamesShapesThatDoNotFit) {
  float x[64] = {};
  const ConstMatrix four(x, 4, 8), three(x, 3, 8);
  EXPECT_DEATH(
      causal_attention(MutMatrix(x, 4, 8), four, three, three, CausalHeads{2, 2, 4, 1, 0, 0}),
      "causal_attention: out \\[4, 8\\], q \\[4, 8\\], k \\[3, 8\\], v \\[3, 8\\] do not fit 2 heads, 2 key-value "
      "heads of 4");
}

}  // namespace
}  // namespace fettle::kit
