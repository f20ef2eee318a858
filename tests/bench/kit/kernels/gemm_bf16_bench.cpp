// SPDX-License-Identifier: Apache-2.0
// bf16 products in GFLOP per second of CPU time of the whole process, which means one core; `of_limit` is the share of
// what the vector instruction that makes them can do, measured just before.
#include "fettle_kit/kernels/gemm_bf16.h"

#include "machine_limits.h"

#include <benchmark/benchmark.h>
#include <tbb/task_arena.h>

#include <array>
#include <string_view>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<float> numbers(std::int64_t n) {
  std::vector<float> out(static_cast<std::size_t>(n));
  std::uint32_t state = 1;
  for (float& x : out) x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
  return out;
}

enum class Form { nt, nn, tn };
enum class Operands { f32, stored };  ///< x and w as f32, or both as bf16

void product(benchmark::State& state, const char* isa, Form form, Operands operands, int threads) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto table = find_kernels(isa);
  if (!table.ok()) return state.SkipWithError("not on this machine");
  const auto x = numbers(m * k), w = numbers(n * k);
  std::vector<std::uint16_t> stored_x(x.size()), stored_w(w.size());
  kernels().f32_to_bf16(stored_x.data(), x.data(), x.size());
  kernels().f32_to_bf16(stored_w.data(), w.data(), w.size());
  std::vector<float> y(static_cast<std::size_t>(m * n));
  tbb::task_arena arena(threads);
  const auto operand = [&](const auto& f32, const auto& bf16, std::int64_t rows, std::int64_t cols) {
    return operands == Operands::f32 ? Bf16Operand(ConstMatrix(f32.data(), rows, cols))
                                     : Bf16Operand(Bf16Matrix{bf16.data(), rows, cols, cols});
  };
  const Bf16Operand a = form == Form::tn ? operand(x, stored_x, k, m) : operand(x, stored_x, m, k);
  const Bf16Operand b = form == Form::nt ? operand(w, stored_w, n, k) : operand(w, stored_w, k, n);
  using Function = void (*)(MutMatrix, Bf16Operand, Bf16Operand, bool, const KernelTable&);
  const Function function = form == Form::nt   ? Function{matmul_bf16_nt}
                            : form == Form::nn ? Function{matmul_bf16_nn}
                                               : Function{matmul_bf16_tn};
  const double limit = std::string_view(isa) == "avx512bf16" ? bench::bf16_dot_peak_gflops() : bench::fma_peak_gflops();
  for (auto _ : state) arena.execute([&] { function(MutMatrix(y.data(), m, n), a, b, false, **table); });
  const double gflop = 2e-9 * static_cast<double>(m * n * k) * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(gflop, benchmark::Counter::kIsRate);
  if (std::string_view(isa) != "amx")
    state.counters["of_limit"] = benchmark::Counter(gflop / limit, benchmark::Counter::kIsRate);
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const auto& shape : {std::array{512, 512, 512},
                            {1024, 512, 512},
                            {1024, 1376, 512},
                            {1024, 512, 1376},
                            {512, 2048, 2048},
                            {2048, 2048, 2048},
                            {1024, 4096, 4096},
                            {4096, 4096, 4096},
                            {512, 11008, 4096},
                            {16, 4096, 4096},
                            {1, 4096, 4096}})
    b->Args({shape[0], shape[1], shape[2]});
  b->ArgNames({"m", "n", "k"})->MeasureProcessCPUTime()->MinTime(0.3);
}

BENCHMARK_CAPTURE(product, amx_nt_f32, "amx", Form::nt, Operands::f32, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, amx_nt_stored, "amx", Form::nt, Operands::stored, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, amx_nt_stored_2_threads, "amx", Form::nt, Operands::stored, 2)->Apply(shapes);
BENCHMARK_CAPTURE(product, amx_nn_f32, "amx", Form::nn, Operands::f32, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, amx_tn_f32, "amx", Form::tn, Operands::f32, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, dot_nt_f32, "avx512bf16", Form::nt, Operands::f32, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, dot_nt_stored, "avx512bf16", Form::nt, Operands::stored, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, dot_nt_stored_2_threads, "avx512bf16", Form::nt, Operands::stored, 2)->Apply(shapes);
BENCHMARK_CAPTURE(product, dot_nn_f32, "avx512bf16", Form::nn, Operands::f32, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, dot_tn_f32, "avx512bf16", Form::tn, Operands::f32, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, avx512_nt_stored, "avx512", Form::nt, Operands::stored, 1)->Apply(shapes);
BENCHMARK_CAPTURE(product, avx2_nt_stored, "avx2", Form::nt, Operands::stored, 1)->Apply(shapes);

}  // namespace
}  // namespace fettle::kit

BENCHMARK_MAIN();
