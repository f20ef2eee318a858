// SPDX-License-Identifier: Apache-2.0
// Products with the matrices of quantized checkpoints, which are decoded while they are multiplied, beside the same
// products with the same weights as f32 in memory. Nanoseconds of CPU time a weight, one thread, best of five.
//
//   bench_kit_compress_packed_rows FOLDER...
//
// of each the gate_proj and the down_proj of block 0. "decode": 64 rows at a time into a buffer that stays.

#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/kernels/gemm.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace fettle::kit;

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double nanoseconds(std::int64_t weights, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::max();
  for (int i = 0; i < 5; ++i) {
    const double before = cpu_seconds();
    work();
    best = std::min(best, cpu_seconds() - before);
  }
  return best * 1e9 / static_cast<double>(weights);
}

fettle::Status measure(const std::string& folder) {
  FETTLE_ASSIGN(const DenseCheckpoint model, DenseCheckpoint::open(folder));
  for (const char* name : {"gate_proj", "down_proj"}) {
    const DenseTensor* const tensor = model.find(fmt::format("model.layers.0.mlp.{}.weight", name));
    if (tensor == nullptr || tensor->packed == nullptr)
      return {fettle::Code::invalid_argument, folder + ": block 0 has no packed " + name};
    const std::int64_t rows = tensor->packed->rows(), cols = tensor->packed->cols();
    const StoredMatrix packed{nullptr, DType::f32, rows, cols, tensor->packed};
    std::vector<float> values(static_cast<std::size_t>(rows * cols)), buffer(static_cast<std::size_t>(64 * cols));
    read_rows(MutMatrix(values.data(), rows, cols), packed, 0);
    const ConstMatrix plain(values.data(), rows, cols);
    fmt::print("{} {} {} x {}:", folder, name, rows, cols);
    fmt::print(" decode {:.2f}", nanoseconds(rows * cols, [&] {
                 for (std::int64_t i = 0; i < rows; i += 64)
                   read_rows(MutMatrix(buffer.data(), std::min<std::int64_t>(64, rows - i), cols), packed, i);
               }));
    for (const std::int64_t tokens : {1, 8, 64, 512}) {
      const std::vector<float> x(static_cast<std::size_t>(tokens * cols), 0.5F);
      std::vector<float> y(static_cast<std::size_t>(tokens * rows));
      const MutMatrix out(y.data(), tokens, rows);
      const ConstMatrix in(x.data(), tokens, cols);
      const double as_f32 = nanoseconds(rows * cols, [&] { matmul_nt(out, in, plain); });
      fmt::print("; {} token{} {:.2f}, f32 {:.2f}", tokens, tokens == 1 ? "" : "s",
                 nanoseconds(rows * cols, [&] { matmul_nt(out, in, packed); }), as_f32);
    }
    fmt::print("\n");
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const tbb::global_control one(tbb::global_control::max_allowed_parallelism, 1);
  for (int i = 1; i < argc; ++i)
    if (const fettle::Status status = measure(argv[i]); !status.ok())
      return fmt::print(stderr, "{}\n", status.message()), 1;
  return 0;
}
