// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/kernels/scratch.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstdint>

namespace fettle::kit {

/// Calls body(first row, rows of w as f32), panel after panel of at most kPanelWeights (or one row), each made by
/// all threads of the caller's arena in a buffer that the calling thread keeps.
template <class Body>
void by_panels(const StoredMatrix& w, const Body& body) {
  const std::int64_t most =
      std::clamp<std::int64_t>(kPanelWeights / std::max<std::int64_t>(w.cols, 1), 1, std::max<std::int64_t>(w.rows, 1));
  float* const values = scratch(Scratch::panel, static_cast<std::size_t>(most * w.cols));
  for (std::int64_t first = 0; first < w.rows; first += most) {
    const MutMatrix panel(values, std::min(most, w.rows - first), w.cols);
    // Isolated, so that this thread is given no other product, which would want the same buffer.
    tbb::this_task_arena::isolate([&] {
      tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, panel.rows, 64), [&](const auto& range) {
        read_rows(panel.rows_from(range.begin(), range.end() - range.begin()), w, first + range.begin());
      });
    });
    body(first, ConstMatrix(panel));
  }
}

}  // namespace fettle::kit
