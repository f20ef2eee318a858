// SPDX-License-Identifier: Apache-2.0
// Nanoseconds a weight of every block type: our fastest code, our scalar reference and, if FETTLE_PEER_GGML names a
// libggml-base.so, the real library, whose bytes are compared too. One thread, 256 rows of 2048, best of several runs.
//
//   bench_kit_compress_gguf [type ...]

#include "fettle_kit/compress/gguf_blocks.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/block_codec.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace fettle::kit;

constexpr std::int64_t kRows = 256, kCols = 2048;

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double ns_per_weight(const std::function<void(std::int64_t rows)>& quantize) {
  double best = std::numeric_limits<double>::max();
  const double start = cpu_seconds();
  std::int64_t rows = 16;  // slow routines see fewer rows
  do {
    const double before = cpu_seconds();
    quantize(rows);
    const double seconds = cpu_seconds() - before;
    best = std::min(best, seconds * 1e9 / static_cast<double>(rows * kCols));
    if (seconds < 0.01) rows = kRows;
  } while (cpu_seconds() - start < 0.15);
  return best;
}

using QuantizeChunk = std::size_t (*)(int, const float*, void*, std::int64_t, std::int64_t, std::int64_t, const float*);

QuantizeChunk peer() {
  const char* path = std::getenv("FETTLE_PEER_GGML");
  if (path == nullptr) return nullptr;
  void* library = dlopen(path, RTLD_NOW);
  if (library == nullptr) {
    fmt::print(stderr, "{}\n", dlerror());
    std::exit(2);
  }
  return reinterpret_cast<QuantizeChunk>(dlsym(library, "ggml_quantize_chunk"));
}

}  // namespace

int main(int argc, char** argv) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> x(kRows * kCols), importance(kCols);
  for (float& v : x) v = normal(random);
  for (float& v : importance) v = normal(random) * normal(random) * 1e3f, v = v < 0 ? -v : v;
  const QuantizeChunk ggml = peer();
  const std::vector<std::string> wanted(argv + 1, argv + argc);

  fmt::print("{} rows of {}, one thread, CPU ns a weight\n", kRows, kCols);
  fmt::print("{:<8} {:<9} {:>8} {:>10} {:>7} {:>8} {:>7} {:>6}\n", "type", "", kernels().name, "reference", "ratio",
             "ggml", "ratio", "bytes");
  for (const DTypeInfo& type : all_dtypes()) {
    if (!has_block_codec(type.dtype)) continue;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), type.name) == wanted.end()) continue;
    for (const float* q : {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
      if (q == nullptr && needs_importance(type.dtype)) continue;
      std::vector<std::byte> ours(bytes_of(type.dtype, x.size())), theirs(ours.size());
      quantize_rows(type.dtype, x.data(), ours.data(), 1, kCols, q);  // builds our tables
      const double fast =
          ns_per_weight([&](std::int64_t rows) { quantize_rows(type.dtype, x.data(), ours.data(), rows, kCols, q); });
      const double slow = ns_per_weight(
          [&](std::int64_t rows) { encode_blocks_reference(type.dtype, x.data(), theirs.data(), rows, kCols, q); });
      std::string real = "-", ratio = "-", same = "-";
      if (ggml != nullptr) {
        ggml(type.gguf, x.data(), theirs.data(), 0, 1, kCols, q);  // builds its tables
        const double ns =
            ns_per_weight([&](std::int64_t rows) { ggml(type.gguf, x.data(), theirs.data(), 0, rows, kCols, q); });
        real = fmt::format("{:.2f}", ns);
        ratio = fmt::format("{:.1f}", ns / fast);
        quantize_rows(type.dtype, x.data(), ours.data(), kRows, kCols, q);
        ggml(type.gguf, x.data(), theirs.data(), 0, kRows, kCols, q);
        same = ours == theirs ? "same" : "DIFFER";
      }
      fmt::print("{:<8} {:<9} {:>8.2f} {:>10.2f} {:>7.1f} {:>8} {:>7} {:>6}\n", type.name, q ? "weighted" : "plain",
                 fast, slow, slow / fast, real, ratio, same);
    }
  }
  return 0;
}
