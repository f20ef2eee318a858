// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/mask.h"
#include "fettle_kit/tensor/matrix.h"

#include <optional>

namespace magnitude {

/// How much of one matrix goes: a share of each group, or N of every M.
struct Target {
  double share = 0.5;
  fettle::kit::Group group = fettle::kit::Group::matrix;
  std::optional<fettle::kit::NofM> pattern;  ///< overrides share and group
};

/// Prunes the weights of smallest absolute value (Han et al. 2015, section 3). `scores` holds the weights on entry and
/// their absolute values on return. NaN has no magnitude: the caller checks first.
fettle::kit::Mask mask_of(fettle::kit::MutMatrix scores, const Target& target);

/// False if any weight is NaN.
bool all_numbers(fettle::kit::ConstMatrix weights);

/// Zeroes the bytes of the pruned weights in rows stored with `element` bytes each; the kept ones stay bit for bit.
void apply(const fettle::kit::Mask& mask, std::span<std::byte> rows, std::size_t element);

}  // namespace magnitude
