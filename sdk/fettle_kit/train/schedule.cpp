// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/schedule.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

namespace fettle::kit {

Result<Decay> parse_decay(std::string_view text) {
  if (text == "constant") return Decay::constant;
  if (text == "linear") return Decay::linear;
  if (text == "cosine") return Decay::cosine;
  return Status(Code::invalid_argument, fmt::format("unknown schedule '{}': expected constant, linear or cosine", text),
                "schedule");
}

double Schedule::rate(std::int64_t step) const {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (decay == Decay::constant) return peak;
  // The peak belongs to the last step of the warm-up, or to step 0 where there is none.
  const std::int64_t top = warmup > 0 ? warmup - 1 : 0, last = steps - 1;
  if (last <= top) return peak;
  const double passed = static_cast<double>(step - top) / static_cast<double>(last - top);
  const double left = decay == Decay::linear ? 1 - passed : 0.5 * (1 + std::cos(std::numbers::pi * passed));
  return floor + (peak - floor) * left;
}

}  // namespace fettle::kit
