// SPDX-License-Identifier: Apache-2.0
// Matrix products beside what the machine can do. All rates are per second of CPU time of the whole process, so that
// they mean one core and load by others counts little; `of_limit` is the share of the limit measured just before.
#include "fettle_kit/kernels/gemm.h"

#include "eigen_peer.h"
#include "machine_limits.h"

#include <benchmark/benchmark.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<float> numbers(std::int64_t n) {
  std::vector<float> out(static_cast<std::size_t>(n));
  std::uint32_t state = 1;
  for (float& x : out) x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
  return out;
}

using Function = void (*)(float*, const float*, const float*, std::int64_t, std::int64_t, std::int64_t);

void nt(float* y, const float* x, const float* w, std::int64_t m, std::int64_t n, std::int64_t k) {
  matmul_nt(MutMatrix(y, m, n), ConstMatrix(x, m, k), ConstMatrix(w, n, k));
}
void nn(float* y, const float* x, const float* w, std::int64_t m, std::int64_t n, std::int64_t k) {
  matmul_nn(MutMatrix(y, m, n), ConstMatrix(x, m, k), ConstMatrix(w, k, n));
}
void tn(float* y, const float* x, const float* w, std::int64_t m, std::int64_t n, std::int64_t k) {
  matmul_tn(MutMatrix(y, m, n), ConstMatrix(x, k, m), ConstMatrix(w, k, n));
}
void eigen(float* y, const float* x, const float* w, std::int64_t m, std::int64_t n, std::int64_t k) {
  bench::eigen_matmul_nt(y, x, w, m, n, k);
}

void product(benchmark::State& state, Function function, int threads) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto x = numbers(m * k), w = numbers(n * k);
  std::vector<float> y(static_cast<std::size_t>(m * n));
  tbb::task_arena arena(threads);
  const double limit = bench::fma_peak_gflops();
  for (auto _ : state) arena.execute([&] { function(y.data(), x.data(), w.data(), m, n, k); });
  const double gflop = 2e-9 * static_cast<double>(m * n * k) * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(gflop, benchmark::Counter::kIsRate);
  state.counters["of_limit"] = benchmark::Counter(gflop / limit, benchmark::Counter::kIsRate);
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const auto& shape : {std::array{512, 256, 256},
                            {512, 768, 256},
                            {512, 256, 768},
                            {512, 512, 512},
                            {2048, 1376, 512},
                            {512, 2048, 2048},
                            {2048, 2048, 2048},
                            {512, 4096, 4096},
                            {512, 11008, 4096},
                            {512, 4096, 11008},
                            {2048, 11008, 4096},
                            {16, 768, 256},
                            {32, 768, 256},
                            {9, 4096, 4096},
                            {16, 4096, 4096},
                            {32, 4096, 4096},
                            {64, 2048, 2048}})
    b->Args({shape[0], shape[1], shape[2]});
  b->ArgNames({"m", "n", "k"})->MeasureProcessCPUTime()->MinTime(0.3);
}

BENCHMARK_CAPTURE(product, nt_1_thread, nt, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, nt_2_threads, nt, 2)->Apply(shapes);
BENCHMARK_CAPTURE(product, nn_1_thread, nn, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, tn_1_thread, tn, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, eigen_1_thread, eigen, 1)->Apply(shapes);

/// Decoding: m rows against weights as they are stored, several matrices in turn, so that they come from memory.
void decode(benchmark::State& state, DType dtype, int threads) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const std::size_t bytes = bytes_of(dtype, static_cast<std::uint64_t>(n * k));
  const std::size_t copies = std::max<std::size_t>(1, (static_cast<std::size_t>(state.range(3)) << 20) / bytes);
  std::vector<std::byte> weights(bytes * copies);
  const auto values = numbers(k);
  const auto row_bytes = bytes_of(dtype, static_cast<std::uint64_t>(k));
  info(dtype).from_f32(values.data(), weights.data(), static_cast<std::size_t>(k));
  for (std::size_t at = row_bytes; at < weights.size(); at += row_bytes)
    std::copy_n(weights.begin(), row_bytes, weights.begin() + static_cast<std::ptrdiff_t>(at));
  const auto x = numbers(m * k);
  std::vector<float> y(static_cast<std::size_t>(m * n));
  tbb::task_arena arena(threads);
  const double limit = bench::read_gbps(weights);
  std::size_t copy = 0;
  for (auto _ : state) {
    const StoredMatrix w{weights.data() + copy * bytes, dtype, n, k};
    arena.execute([&] { matmul_nt(MutMatrix(y.data(), m, n), ConstMatrix(x.data(), m, k), w); });
    copy = (copy + 1) % copies;
  }
  const double gb = 1e-9 * static_cast<double>(bytes) * static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(gb, benchmark::Counter::kIsRate);
  state.counters["of_limit"] = benchmark::Counter(gb / limit, benchmark::Counter::kIsRate);
}

void decode_shapes(benchmark::internal::Benchmark* b) {
  for (const int mib : {1, 512})
    for (const int m : {1, 4, 8})
      for (const int k : {256, 2048, 4096})
        if (mib == 512 || k == 256) b->Args({m, k == 256 ? 768 : 4096, k, mib});
  b->ArgNames({"m", "n", "k", "MiB"})->MeasureProcessCPUTime()->MinTime(0.3);
}
BENCHMARK_CAPTURE(decode, bf16_1_thread, DType::bf16, 1)->Apply(decode_shapes);
BENCHMARK_CAPTURE(decode, f32_1_thread, DType::f32, 1)->Apply(decode_shapes);
BENCHMARK_CAPTURE(decode, f16_1_thread, DType::f16, 1)->Apply(decode_shapes);
BENCHMARK_CAPTURE(decode, q8_0_1_thread, DType::q8_0, 1)->Apply(decode_shapes);
BENCHMARK_CAPTURE(decode, q4_k_1_thread, DType::q4_k, 1)->Apply(decode_shapes);
BENCHMARK_CAPTURE(decode, bf16_2_threads, DType::bf16, 2)->Apply(decode_shapes);

}  // namespace
}  // namespace fettle::kit

BENCHMARK_MAIN();
