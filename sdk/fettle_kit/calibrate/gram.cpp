// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/gram.h"

#include "fettle_kit/kernels/gemm.h"

#include <tbb/parallel_for.h>

#include <vector>

namespace fettle::kit {

void Gram::add(ConstMatrix x) {
  const std::int64_t width = sum_.size();
  std::vector<float> product(static_cast<std::size_t>(width * width));
  matmul_tn(MutMatrix(product.data(), width, width), x, x);
  tbb::parallel_for(std::int64_t{0}, width, [&](std::int64_t i) {
    for (std::int64_t j = 0; j <= i; ++j)
      sum_(i, j) += static_cast<double>(product[static_cast<std::size_t>(i * width + j)]);
  });
  rows_ += x.rows;
}

}  // namespace fettle::kit
