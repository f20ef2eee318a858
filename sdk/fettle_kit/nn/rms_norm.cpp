// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/rms_norm.h"

#include "fettle_kit/kernels/kernels.h"

#include <tbb/parallel_for.h>

namespace fettle::kit {

void rms_norm(MutMatrix y, ConstMatrix x, std::span<const float> factor, float eps) {
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t i) {
    rms_norm_row(y.row(i).data(), x.row(i).data(), factor.data(), factor.size(), eps);
  });
}

}  // namespace fettle::kit
