// SPDX-License-Identifier: Apache-2.0
#include "magnitude.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cmath>
#include <cstring>

namespace magnitude {

using fettle::kit::Mask;

Mask mask_of(fettle::kit::MutMatrix scores, const Target& target) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, scores.rows, 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (float& w : scores.row(i)) w = std::fabs(w);
  });
  return target.pattern ? prune_n_of_m(scores, *target.pattern) : prune_share(scores, target.share, target.group);
}

bool all_numbers(fettle::kit::ConstMatrix weights) {
  for (std::int64_t i = 0; i < weights.rows; ++i)
    for (const float w : weights.row(i))
      if (std::isnan(w)) return false;
  return true;
}

void apply(const Mask& mask, std::span<std::byte> rows, std::size_t element) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, mask.rows(), 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (std::int64_t j = 0; j < mask.cols(); ++j)
        if (!mask.kept(i, j))
          std::memset(rows.data() + static_cast<std::size_t>(i * mask.cols() + j) * element, 0, element);
  });
}

}  // namespace magnitude
