// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/rope.h"

#include "fettle_kit/kernels/kernels.h"

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
  const auto pairs = static_cast<std::size_t>(table.pairs);
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t r) {
    const std::int64_t at = r % positions * table.pairs;
    const std::span<float> row = x.row(r);
    for (std::size_t head = 0; head < row.size(); head += 2 * pairs)
      kernels().rotate(&row[head], &table.cos[static_cast<std::size_t>(at)], &table.sin[static_cast<std::size_t>(at)],
                       pairs);
  });
}

}  // namespace fettle::kit
