// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <cstdint>

namespace fettle::kit {

/// A matrix whose rows are made as f32 when they are asked for, because its file holds it as no dtype that kernels
/// multiply with. [any thread]
class RowSource {
 public:
  virtual ~RowSource() = default;
  /// out [n, columns]: the values of the rows from `first` on. Reading 64 rows or so at a time is fast in every layout.
  virtual void read(std::int64_t first, MutMatrix out) const = 0;
};

}  // namespace fettle::kit
