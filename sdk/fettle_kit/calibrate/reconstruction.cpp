// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/reconstruction.h"

#include "fettle_kit/model/decoder.h"

#include <tbb/parallel_for.h>

namespace fettle::kit {

void ReconstructionError::add(ConstMatrix x, const StoredMatrix& w, const StoredMatrix& changed) {
  Rows before(x.rows, w.rows), after(x.rows, w.rows);
  matmul_nt(before, x, w);
  matmul_nt(after, x, changed);
  const ConstMatrix a = before, b = after;
  std::vector<double> moved(static_cast<std::size_t>(x.rows)), outputs(moved.size());  // a sum a row, then in order
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t i) {
    double difference = 0, size = 0;
    for (std::int64_t j = 0; j < a.cols; ++j) {
      const double d = static_cast<double>(a(i, j)) - static_cast<double>(b(i, j));
      difference += d * d;
      size += static_cast<double>(a(i, j)) * static_cast<double>(a(i, j));
    }
    moved[static_cast<std::size_t>(i)] = difference, outputs[static_cast<std::size_t>(i)] = size;
  });
  for (std::size_t i = 0; i < moved.size(); ++i) moved_ += moved[i], outputs_ += outputs[i];
}

}  // namespace fettle::kit
