// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/rope.h"

#include <tbb/parallel_for.h>

#include <cmath>

namespace fettle::kit {

RopeTable rope_table(std::span<const float> frequencies, float magnitude, std::int64_t first, std::int64_t positions) {
  RopeTable table{static_cast<std::int64_t>(frequencies.size()), {}, {}};
  const std::size_t size = frequencies.size() * static_cast<std::size_t>(positions);
  table.cos.reserve(size);
  table.sin.reserve(size);
  for (std::int64_t p = first; p < first + positions; ++p) {
    for (const float frequency : frequencies) {
      const double angle = static_cast<float>(p) * frequency;
      table.cos.push_back(static_cast<float>(std::cos(angle)) * magnitude);
      table.sin.push_back(static_cast<float>(std::sin(angle)) * magnitude);
    }
  }
  return table;
}

void rotate_heads(MutMatrix x, const RopeTable& table, std::int64_t positions) {
  const std::int64_t half = table.pairs;
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t r) {
    const float* cos = table.cos.data() + (r % positions) * half;
    const float* sin = table.sin.data() + (r % positions) * half;
    for (float* head = x.row(r).data(); head != x.row(r).data() + x.cols; head += 2 * half) {
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = head[i], b = head[i + half];
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i] + a * sin[i];
      }
    }
  });
}

}  // namespace fettle::kit
