// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/cheapest_zeros.h"
#include "fettle_kit/compress/grid.h"
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/compress/sweep.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace gptq {

/// What the inputs of a linear say, ready for every matrix that reads them.
struct Inputs {
  std::vector<std::int64_t> order;  ///< column order[k] is quantized k-th; empty: from left to right
  fettle::kit::SweepFactor factor;  ///< of the Gram matrix in that order
  double damping = 0;               ///< what it took
};

/// Factors the Gram matrix. act_order: columns with much input go first, while there are others to make up for them; of
/// equal ones the left goes first. If the damped matrix is not positive definite, tries ten times the damping until 1,
/// telling `retry` each time.
fettle::Result<Inputs> prepare(const fettle::kit::Square& gram, bool act_order, double damping,
                               const std::function<void(double damping, const std::string& why)>& retry = {});

struct Options {
  fettle::kit::GridScheme scheme;
  /// Grids of the original weights, and groups of neighbours whatever the order. Else a group's grid is fitted when the
  /// sweep reaches it, to the weights as compensated so far, and groups are neighbours in the order.
  bool static_groups = false;
  const fettle::kit::Mask* mask = nullptr;  ///< weights that must be zero; null: none
  /// Zero the cheapest weights in the same sweep, as SparseGPT chooses them (arXiv:2301.00774, section 3.3). Groups of
  /// N:M are neighbours in the order of the sweep.
  std::optional<fettle::kit::SparsityTarget> prune;
  std::int64_t block = 128;
};

struct Quantized {
  fettle::kit::CodedMatrix coded;  ///< columns in their own places; group_of says where groups went
  fettle::kit::SweepReport report;
  std::int64_t pruned = 0;  ///< weights that Options::prune zeroed
};

/// GPTQ (Frantar et al. 2022, arXiv:2210.17323): columns are rounded one after the other, and those still to come make
/// up for the error. w [rows, cols], finite; becomes the quantized values. The same bits for any number of threads and,
/// unless a share is pruned of each, for any block.
Quantized quantize(fettle::kit::MutMatrix w, const Inputs& inputs, const Options& options);

}  // namespace gptq
