// SPDX-License-Identifier: Apache-2.0
// What it computes is tested against f64 in tests/unit/kit/backend; here only that every table gives the same bits.
#include "fettle_kit/kernels/attention_backward.h"

#include "kernels/kernel_testing.h"

#include <string>
#include <vector>

namespace fettle::kit {
namespace {

struct BackwardCase {
  const char* name;
  CausalHeads heads;
  std::int64_t length, sequences;
};

class AttentionBackward : public testing::TestWithParam<BackwardCase> {};

TEST_P(AttentionBackward, GivesTheSameBitsOnEveryInstructionSet) {
  const auto& [name, heads, length, sequences] = GetParam();
  const std::int64_t rows = length * sequences, width = heads.heads * heads.head_dim;
  const std::int64_t kv_width = heads.kv_heads * heads.head_dim;
  Random random(9);
  const Owned q(rows, width, width + 3, random), k(rows, kv_width, kv_width + 1, random);
  const Owned v(rows, kv_width, kv_width, random), dout(rows, width, width, random);
  std::vector<std::vector<float>> first;
  for (const KernelTable* table : usable_kernels()) {
    Owned out(rows, width, width, random), log_sums(rows, heads.heads, heads.heads, random);
    for (std::int64_t s = 0; s < sequences; ++s) {
      const auto of = [&](ConstMatrix m) { return m.rows_from(s * length, length); };
      const auto to = [&](MutMatrix m) { return m.rows_from(s * length, length); };
      causal_attention(to(out), to(log_sums), of(q), of(k), of(v), heads, *table);
    }
    Owned dq(rows, width, width, random), dk(rows, kv_width, kv_width, random), dv(rows, kv_width, kv_width, random);
    attention_backward(dq, dk, dv, dout, {q, k, v, out, log_sums, heads, length}, *table);
    const std::vector<std::vector<float>> results = {out.data, log_sums.data, dq.data, dk.data, dv.data};
    if (first.empty()) first = results;
    for (std::size_t i = 0; i < results.size(); ++i)
      expect_same(results[i], first[i], std::string(table->name) + ", result " + std::to_string(i));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionBackward,
                         testing::Values(BackwardCase{"short", {2, 1, 8, 0.3f, 0, 0}, 5, 3},
                                         BackwardCase{"long", {4, 2, 16, 0.3f, 0, 0}, 301, 1},
                                         BackwardCase{"window", {3, 3, 12, 0.3f, 0, 37}, 270, 1},
                                         BackwardCase{"window_softcap", {6, 2, 8, 0.3f, 3, 150}, 290, 2}),
                         [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace fettle::kit
