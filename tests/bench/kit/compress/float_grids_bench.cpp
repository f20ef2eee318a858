// SPDX-License-Identifier: Apache-2.0
// Rates of the FP8 and FP4 encoders on bf16 weights, beside a memcpy of the same run. One thread; bytes are those read
// and written, CPU time is that of the thread. First the encoders with a row turned into f32 in a buffer of its own,
// then what the techniques do with a whole matrix: check it, fit scales, encode, and sum the error.
//
//   bench_kit_compress_float_grids

#include "fettle_kit/compress/float_grids.h"
#include "fettle_kit/compress/float_matrix.h"
#include "fettle_kit/kernels/kernels.h"

#include <fmt/format.h>
#include <tbb/task_arena.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

namespace {

using namespace fettle::kit;

constexpr std::size_t kRows = 32768, kCols = 2048;  // 128 MiB of bf16: beyond all caches

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double gigabytes_a_second(double bytes, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::max();
  for (int i = 0; i < 5; ++i) {
    const double before = cpu_seconds();
    work();
    best = std::min(best, cpu_seconds() - before);
  }
  return bytes / best * 1e-9;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<std::uint16_t> weights(kRows * kCols);
  std::vector<float> row(kCols);
  for (std::size_t i = 0; i < kRows; ++i) {
    if (i < 64)
      for (float& v : row) v = normal(random);
    kernels().f32_to_bf16(weights.data() + i * kCols, row.data(), kCols);
  }
  std::vector<std::uint8_t> out(weights.size() * 2), scales(weights.size() / 16);
  const double n = static_cast<double>(weights.size());
  const auto by_rows = [&](const std::function<void(std::size_t)>& fn) {
    return [&weights, &row, fn] {
      for (std::size_t i = 0; i < kRows; ++i) {
        kernels().bf16_to_f32(row.data(), weights.data() + i * kCols, kCols);
        fn(i);
      }
    };
  };
  struct Line {
    const char* name;
    double bytes_a_weight;
    std::function<void()> work;
  };
  const auto nvfp4 = [&](BlockScale choice) {
    return by_rows([&, choice](std::size_t i) {
      const float divisor = nvfp4_divisor(0.1F, choice);
      nvfp4_scales(row, divisor, choice, nullptr, scales.data() + i * kCols / 16);
      encode_nvfp4(row, divisor, scales.data() + i * kCols / 16, out.data() + i * kCols / 2);
    });
  };
  const TensorView tensor{"w", DType::bf16, {kRows, kCols}, std::as_bytes(std::span(weights))};
  const auto matrix = [&](FloatKind kind, Fp8Sharing sharing, BlockScale choice) {
    FloatScheme scheme;
    scheme.kind = kind;
    scheme.sharing = sharing;
    scheme.block_scale = choice;
    scheme.scale_type = DType::bf16;
    return [&tensor, scheme] {
      const float magnitude = scheme.tensor_scale() ? largest_magnitude(tensor) : 0;
      if (!round_to_floats(tensor, scheme, magnitude)) std::abort();
    };
  };
  constexpr double nvfp4_bytes = 2 + 9.0 / 16, mxfp4_bytes = 2 + 17.0 / 32;
  const auto plain = BlockScale::plain, either = BlockScale::four_over_six;
  const double copy = gigabytes_a_second(4 * n, [&] { std::memcpy(out.data(), weights.data(), weights.size() * 2); });
  tbb::task_arena one(1);
  fmt::print("{:<30} {:>6} {:>10}  ({}, one thread)\n{:<30} {:>6.1f}\n", "", "GB/s", "of memcpy", kernels().name,
             "memcpy", copy);
  for (const Line& line :
       {Line{"largest magnitude", 2, by_rows([&](std::size_t) { row[0] = largest_magnitude(row); })},
        Line{"fp8, scale given", 3, by_rows([&](std::size_t i) { encode_e4m3(row, 0.0003F, out.data() + i * kCols); })},
        Line{"fp8, scale of the row", 3,
             by_rows([&](std::size_t i) { encode_e4m3(row, largest_magnitude(row) / 448, out.data() + i * kCols); })},
        Line{"nvfp4 plain", nvfp4_bytes, nvfp4(BlockScale::plain)},
        Line{"nvfp4 four_over_six", nvfp4_bytes, nvfp4(BlockScale::four_over_six)},
        Line{"mxfp4 nearest", mxfp4_bytes, by_rows([&](std::size_t i) {
               mxfp4_scales(row, PowerScale::nearest, scales.data() + i * kCols / 32);
               encode_mxfp4(row, scales.data() + i * kCols / 32, out.data() + i * kCols / 2);
             })},
        Line{"matrix, fp8 channel", 3, matrix(FloatKind::fp8, Fp8Sharing::channel, plain)},
        Line{"matrix, fp8 tensor", 3, matrix(FloatKind::fp8, Fp8Sharing::tensor, plain)},
        Line{"matrix, fp8 block", 3, matrix(FloatKind::fp8, Fp8Sharing::block, plain)},
        Line{"matrix, nvfp4 plain", nvfp4_bytes, matrix(FloatKind::nvfp4, Fp8Sharing::tensor, plain)},
        Line{"matrix, nvfp4 four_over_six", nvfp4_bytes, matrix(FloatKind::nvfp4, Fp8Sharing::tensor, either)},
        Line{"matrix, mxfp4 nearest", mxfp4_bytes, matrix(FloatKind::mxfp4, Fp8Sharing::tensor, plain)}}) {
    const double rate = one.execute([&] { return gigabytes_a_second(line.bytes_a_weight * n, line.work); });
    fmt::print("{:<30} {:>6.1f} {:>10.2f}\n", line.name, rate, rate / copy);
  }
  return 0;
}
