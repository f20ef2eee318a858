// SPDX-License-Identifier: Apache-2.0
#include "machine_limits.h"

#include <immintrin.h>
#include <time.h>

#include <algorithm>

namespace fettle::bench {
namespace {

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// 16 chains: more than the 4 cycles of latency times 2 units.
#define FETTLE_CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

__attribute__((target("avx512f"))) void fma_512(long rounds) {
  const __m512 a = _mm512_set1_ps(0.5f);
#define FETTLE_ZERO(i) __m512 s##i = a;
  FETTLE_CHAINS(FETTLE_ZERO)
#undef FETTLE_ZERO
  for (long r = 0; r < rounds; ++r) {
#define FETTLE_STEP(i)                \
  s##i = _mm512_fmadd_ps(s##i, a, a); \
  asm volatile("" : "+v"(s##i));
    FETTLE_CHAINS(FETTLE_STEP)
#undef FETTLE_STEP
  }
}

__attribute__((target("avx512f,avx512bf16"))) void dot_512(long rounds) {
  const __m512 one = _mm512_set1_ps(0.5f);
  const __m512bh a = _mm512_cvtne2ps_pbh(one, one);
#define FETTLE_ZERO(i) __m512 s##i = one;
  FETTLE_CHAINS(FETTLE_ZERO)
#undef FETTLE_ZERO
  for (long r = 0; r < rounds; ++r) {
#define FETTLE_STEP(i)                 \
  s##i = _mm512_dpbf16_ps(s##i, a, a); \
  asm volatile("" : "+v"(s##i));
    FETTLE_CHAINS(FETTLE_STEP)
#undef FETTLE_STEP
  }
}

__attribute__((target("avx2,fma"))) void fma_256(long rounds) {
  const __m256 a = _mm256_set1_ps(0.5f);
#define FETTLE_ZERO(i) __m256 s##i = a;
  FETTLE_CHAINS(FETTLE_ZERO)
#undef FETTLE_ZERO
  for (long r = 0; r < rounds; ++r) {
#define FETTLE_STEP(i)                \
  s##i = _mm256_fmadd_ps(s##i, a, a); \
  asm volatile("" : "+x"(s##i));
    FETTLE_CHAINS(FETTLE_STEP)
#undef FETTLE_STEP
  }
}

__attribute__((target("avx2"))) void read_all(const std::byte* p, std::size_t n) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (std::size_t i = 0; i + 128 <= n; i += 128) {
    const auto at = [=](std::size_t k) { return reinterpret_cast<const __m256i*>(p + i + k); };
    a = _mm256_xor_si256(a, _mm256_loadu_si256(at(0)));
    b = _mm256_xor_si256(b, _mm256_loadu_si256(at(32)));
    c = _mm256_xor_si256(c, _mm256_loadu_si256(at(64)));
    d = _mm256_xor_si256(d, _mm256_loadu_si256(at(96)));
  }
  asm volatile("" ::"x"(a), "x"(b), "x"(c), "x"(d));
}

double rounds_a_second(void (*loop)(long)) {
  constexpr long rounds = 200'000;
  double best = 1e9;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const double start = thread_seconds();
    loop(rounds);
    best = std::min(best, thread_seconds() - start);
  }
  return rounds / best;
}

}  // namespace

double fma_peak_gflops() {
  const bool wide = __builtin_cpu_supports("avx512f") != 0;
  return 2.0 * 16 * (wide ? 16 : 8) * rounds_a_second(wide ? fma_512 : fma_256) * 1e-9;
}

double bf16_dot_peak_gflops() {
  if (!__builtin_cpu_supports("avx512bf16")) return 0;
  return 4.0 * 16 * 16 * rounds_a_second(dot_512) * 1e-9;
}

double read_gbps(const std::vector<std::byte>& memory) {
  double best = 1e9;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const double start = thread_seconds();
    read_all(memory.data(), memory.size());
    best = std::min(best, thread_seconds() - start);
  }
  return static_cast<double>(memory.size()) / best * 1e-9;
}

}  // namespace fettle::bench
