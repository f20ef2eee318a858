// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/gram.h"

#include "fettle_kit/kernels/gemm.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <vector>

namespace fettle::kit {
namespace {

/// Rows of the product at a time: only those parts of it are made that reach below the diagonal.
constexpr std::int64_t panel = 512;

}  // namespace

void Gram::add(ConstMatrix x) {
  const std::int64_t width = sum_.size();
  std::vector<float> product(static_cast<std::size_t>(std::min(panel, width) * width));
  for (std::int64_t first = 0; first < width; first += panel) {
    const std::int64_t rows = std::min(panel, width - first), cols = first + rows;
    const MutMatrix part(product.data(), rows, cols);
    matmul_tn(part, ConstMatrix(x.data + first, x.rows, rows, x.stride), ConstMatrix(x.data, x.rows, cols, x.stride));
    tbb::parallel_for(std::int64_t{0}, rows, [&](std::int64_t i) {
      double* const sums = sum_.row(first + i);
      const float* const products = part.row(i).data();
      for (std::int64_t j = 0; j <= first + i; ++j) sums[j] += static_cast<double>(products[j]);
    });
  }
  rows_ += x.rows;
}

}  // namespace fettle::kit
