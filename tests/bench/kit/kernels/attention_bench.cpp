// SPDX-License-Identifier: Apache-2.0
// Attention and row kernels. Rates per second of CPU time, as in gemm_bench.cpp. Attention counts 4 * head_dim
// operations for each pair of query and key that the mask lets through; `of_limit` is the share of the register-only
// FMA rate.
#include "fettle_kit/kernels/attention.h"

#include "machine_limits.h"

#include <benchmark/benchmark.h>
#include <tbb/task_arena.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<float> numbers(std::int64_t n) {
  std::vector<float> out(static_cast<std::size_t>(n));
  std::uint32_t state = 1;
  for (float& x : out) x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
  return out;
}

void attention(benchmark::State& state, int threads) {
  const std::int64_t queries = state.range(0), keys = state.range(1), dim = state.range(4);
  const CausalHeads heads{state.range(2), state.range(3), dim, 1 / std::sqrt(static_cast<float>(dim)), 0, 0};
  const std::int64_t width = heads.heads * dim, kv_width = heads.kv_heads * dim;
  const auto q = numbers(queries * width), k = numbers(keys * kv_width), v = numbers(keys * kv_width);
  std::vector<float> out(q.size());
  tbb::task_arena arena(threads);
  const double limit = bench::fma_peak_gflops();
  for (auto _ : state)
    arena.execute([&] {
      causal_attention(MutMatrix(out.data(), queries, width), ConstMatrix(q.data(), queries, width),
                       ConstMatrix(k.data(), keys, kv_width), ConstMatrix(v.data(), keys, kv_width), heads);
    });
  const double pairs = static_cast<double>(queries) * static_cast<double>(keys - queries) +
                       0.5 * static_cast<double>(queries) * static_cast<double>(queries + 1);
  const double gflop = 4e-9 * static_cast<double>(width) * pairs * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(gflop, benchmark::Counter::kIsRate);
  state.counters["of_limit"] = benchmark::Counter(gflop / limit, benchmark::Counter::kIsRate);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->Args({512, 512, 4, 4, 64})->Args({512, 512, 8, 2, 64})->Args({2048, 2048, 8, 8, 128})->Args({1, 2048, 8, 8, 128});
  b->Args({1, 512, 4, 4, 64});
  b->ArgNames({"queries", "keys", "heads", "kv_heads", "dim"})->MeasureProcessCPUTime()->MinTime(0.3);
}
BENCHMARK_CAPTURE(attention, 1_thread, 1)->Apply(shapes);
BENCHMARK_CAPTURE(attention, 2_threads, 2)->Apply(shapes);

/// Elements a second of a row kernel on a row that stays in the first-level cache.
void row(benchmark::State& state, void (*KernelTable::*kernel)(float*, const float*, std::size_t), const char* isa) {
  const auto table = find_kernels(isa);
  if (!table.ok()) return state.SkipWithError(table.error().message().c_str());
  const auto x = numbers(2048);
  std::vector<float> y(x.size());
  for (auto _ : state) {
    ((*table)->*kernel)(y.data(), x.data(), x.size());
    benchmark::ClobberMemory();
  }
  state.counters["elements/s"] =
      benchmark::Counter(2048.0 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK_CAPTURE(row, exp_avx512, &KernelTable::exp, "avx512");
BENCHMARK_CAPTURE(row, exp_avx2, &KernelTable::exp, "avx2");
BENCHMARK_CAPTURE(row, exp_scalar, &KernelTable::exp, "scalar");
BENCHMARK_CAPTURE(row, tanh_avx512, &KernelTable::tanh, "avx512");
BENCHMARK_CAPTURE(row, silu_avx512, &KernelTable::silu, "avx512");
BENCHMARK_CAPTURE(row, gelu_tanh_avx512, &KernelTable::gelu_tanh, "avx512");

}  // namespace
}  // namespace fettle::kit

BENCHMARK_MAIN();
