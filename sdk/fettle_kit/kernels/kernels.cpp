// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/kernels.h"

#include "fettle_kit/kernels/logarithm.h"

#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace fettle::kit {
namespace {

/// __builtin_cpu_supports asks CPUID and, for the wide registers, whether the system saves them.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

/// The system must be asked for the tile registers once a process; all its threads may use them then.
bool has_amx() {
#ifdef __linux__
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kTile = 1u << 24, kTileBf16 = 1u << 22;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & (kTile | kTileBf16)) != (kTile | kTileBf16))
    return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return has_avx512_bf16() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

/// AVX-512 for all but bf16 products.
KernelTable with_products(const char* name, const Bf16Kernels& bf16) {
  KernelTable t = avx512_kernels;
  t.name = name;
  t.bf16 = &bf16;
  return t;
}
const KernelTable& avx512_bf16_kernels() {
  static const KernelTable table = with_products("avx512bf16", dot_bf16);
  return table;
}
const KernelTable& amx_kernels() {
  static const KernelTable table = with_products("amx", amx_bf16);
  return table;
}

struct Usable {
  std::array<const KernelTable*, 5> tables{&scalar_kernels};
  std::size_t count = 1;
  Usable() {
    if (has_avx2()) tables[count++] = &avx2_kernels;
    if (has_avx512()) tables[count++] = &avx512_kernels;
    if (has_avx512_bf16()) tables[count++] = &avx512_bf16_kernels();
    if (has_amx()) tables[count++] = &amx_kernels();
  }
};

}  // namespace

std::span<const KernelTable* const> usable_kernels() {
  static const Usable usable;
  return {usable.tables.data(), usable.count};
}

Result<const KernelTable*> find_kernels(const char* wanted) {
  const auto usable = usable_kernels();
  if (wanted == nullptr || *wanted == '\0') return usable.back();
  const std::string_view name = wanted;
  for (const KernelTable* table : usable)
    if (name == table->name) return table;
  for (const KernelTable* table :
       {&scalar_kernels, &avx2_kernels, &avx512_kernels, &avx512_bf16_kernels(), &amx_kernels()}) {
    if (name == table->name)
      return Status(
          Code::unsupported,
          "this machine cannot run '" + std::string(name) + "'; unset it to use '" + usable.back()->name + "'",
          "FETTLE_ISA");
  }
  return Status(Code::invalid_argument,
                "unknown instruction set '" + std::string(name) +
                    "', expected scalar, avx2, avx512, avx512bf16 or amx; unset it to use the fastest",
                "FETTLE_ISA");
}

const KernelTable& kernels() {
  static const KernelTable& chosen = []() -> const KernelTable& {
    const auto found = find_kernels(std::getenv("FETTLE_ISA"));
    if (found.ok()) return **found;
    std::fprintf(stderr, "%s: %s\n", found.error().where().c_str(), found.error().message().c_str());
    std::_Exit(2);
  }();
  return chosen;
}

float rms_norm_row(float* y, const float* x, const float* weight, std::size_t n, float eps, const KernelTable& table) {
  const float mean = table.sum_squares(x, n) / static_cast<float>(n);
  const float rstd = 1.0f / std::sqrt(mean + eps);
  table.scale_mul(y, rstd, x, weight, n);
  return rstd;
}

void softmax_row(float* y, const float* x, std::size_t n, const KernelTable& table) {
  const float sum = table.exp_sum(y, x, table.max(x, n), n);
  table.scale(y, 1.0f / sum, y, n);
}

float log_sum_exp_row(const float* x, float* scratch, std::size_t n, const KernelTable& table) {
  const float max = table.max(x, n);
  const float sum = table.exp_sum(scratch, x, max, n);
  if (!(sum > 0)) return sum == 0 ? -HUGE_VALF : sum;
  return static_cast<float>(max + natural_log(sum));
}

}  // namespace fettle::kit
