// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/rms_norm.h"

#include <tbb/parallel_for.h>

#include <cmath>

namespace fettle::kit {

void rms_norm(MutMatrix y, ConstMatrix x, std::span<const float> factor, float eps) {
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t i) {
    double squares = 0;
    for (const float value : x.row(i)) squares += double{value} * value;
    const float scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(x.cols) + double{eps}));
    for (std::int64_t j = 0; j < x.cols; ++j) y(i, j) = x(i, j) * scale * factor[static_cast<std::size_t>(j)];
  });
}

}  // namespace fettle::kit
