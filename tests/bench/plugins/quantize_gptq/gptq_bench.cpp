// SPDX-License-Identifier: Apache-2.0
// GPTQ of one layer, 4 bits in groups of 128, given its weights and Gram matrix in raw files. Prints one line of JSON:
// seconds of the factor and of the sweep, and what the products alone that the sweep defers would take. peer.py runs
// it beside PyTorch.
//
//   bench_plugins_quantize_gptq WEIGHTS.f32 GRAM.f64 ROWS COLS THREADS VALUES.f32

#include "fettle_kit/kernels/gemm.h"

#include "plugins/quantize/gptq/gptq.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

namespace {

using namespace fettle::kit;

double seconds(const std::function<void()>& work) {
  const auto before = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
}

template <class T>
void read(const char* path, T* out, std::size_t n) {
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(out), static_cast<std::streamsize>(n * sizeof(T)));
}

/// The updates behind each block of 128 columns, as bare products.
double products(std::int64_t rows, std::int64_t cols) {
  const auto size = static_cast<std::size_t>(rows * cols);
  std::vector<float> w(size), errors(static_cast<std::size_t>(rows * 128)), rest(static_cast<std::size_t>(128 * cols));
  return seconds([&] {
    for (std::int64_t after = 128; after < cols; after += 128)
      matmul_nn(MutMatrix(w.data() + after, rows, cols - after, cols), ConstMatrix(errors.data(), rows, 128),
                ConstMatrix(rest.data(), 128, cols - after), true);
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const std::int64_t rows = std::atoll(argv[3]), cols = std::atoll(argv[4]);
  const int threads = std::atoi(argv[5]);
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  Square gram(cols);
  read(argv[1], w.data(), w.size());
  read(argv[2], gram.row(0), static_cast<std::size_t>(cols * cols));
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
  tbb::task_arena arena(threads);
  arena.execute([&] {
    products(rows, cols);  // wakes the threads
    gptq::Inputs inputs;
    double factor = 1e30, sweep = 1e30, bare = 1e30;
    std::vector<float> values;
    for (int i = 0; i < 3; ++i) {
      factor = std::min(factor, seconds([&] { inputs = *gptq::prepare(gram, false, 0.01); }));
      values = w;
      sweep = std::min(sweep,
                       seconds([&] { gptq::quantize(MutMatrix(values.data(), rows, cols), inputs, gptq::Options{}); }));
      bare = std::min(bare, products(rows, cols));
    }
    std::ofstream(argv[6], std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * 4));
    fmt::print("{{\"factor\": {:.4f}, \"sweep\": {:.4f}, \"products\": {:.4f}}}\n", factor, sweep, bare);
  });
  return 0;
}
