// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/node.h"
#include "host/pipeline/variables.h"

#include <optional>
#include <string>
#include <vector>

namespace fettle::host {

/// One instance of a step with a matrix.
struct Variant {
  std::string label;                   ///< "2:4,Q8_0": one part an axis, in the order written
  std::vector<Binding> values;         ///< what ${matrix.AXIS} is
  std::vector<const Node*> overrides;  ///< {use, in, with} maps of the axes, to be merged over the step
};

/// All combinations of the axes, without those under `exclude`, with those under `include` at the end. `matrix` must
/// outlive the result. Empty after an error.
std::vector<Variant> expand_matrix(const Node& matrix, const std::string& what, Diagnostics& diagnostics);

/// More instances than this are a mistake.
inline constexpr std::size_t most_instances = 10'000;

}  // namespace fettle::host
