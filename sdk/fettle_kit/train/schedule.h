// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <string_view>

namespace fettle::kit {

enum class Decay { constant, linear, cosine };
/// From "constant", "linear" or "cosine".
Result<Decay> parse_decay(std::string_view text);

/// The learning rate at each step of a run: rises in a straight line to `peak` over the warm-up, then falls to `floor`
/// in the way of `decay`. Step 0 of a warm-up of w steps has peak / w, step w - 1 has the peak, and the last step of
/// the run has the floor (Loshchilov and Hutter 2017, arXiv:1608.03983, section 3, without restarts).
struct Schedule {
  Decay decay = Decay::cosine;
  double peak = 1e-3, floor = 0;
  std::int64_t warmup = 0, steps = 1;  ///< steps: all of them, the warm-up among them

  /// step in 0 .. steps - 1.
  double rate(std::int64_t step) const;
};

}  // namespace fettle::kit
