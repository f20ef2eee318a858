// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/held_out.h"

#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/calibrate/reconstruction.h"

#include <fmt/format.h>

#include <array>

namespace fettle::kit {

Result<SplitTokens> split_tokens(const TokenSet& tokens, std::optional<int> wanted) {
  const std::int64_t held_out = wanted.value_or(static_cast<int>(tokens.sequences() / 16));
  if (held_out >= tokens.sequences())
    return Status(
        Code::invalid_argument,
        fmt::format("held_out is {}, but there are {} calibration sequences; some must be left to calibrate on",
                    held_out, tokens.sequences()),
        "held_out");
  const std::int64_t used = tokens.sequences() - held_out;
  SplitTokens split{tokens.part(0, used), std::nullopt};
  if (held_out > 0) split.held = tokens.part(used, held_out);
  return split;
}

Status HeldOutErrors::measure(const BlockWeights& changed, bool dense,
                              const std::function<bool(const std::string&)>& moved) {
  const std::int64_t layer = walk_.layer();
  const BlockWeights& before = model_->block_weights(layer);
  std::array<ReconstructionError, block_linears.size()> errors;
  std::array<bool, block_linears.size()> measured{};
  for (std::size_t i = 0; i < errors.size(); ++i) measured[i] = moved(block_linears[i].tensor_name(layer));
  FETTLE_TRY(walk_.observe([&](Site site, ConstMatrix x) {
    for (std::size_t i = 0; i < errors.size(); ++i)
      if (const BlockLinear& linear = block_linears[i]; linear.site == site && measured[i])
        errors[i].add(x, (before.*linear.member).weight, (changed.*linear.member).weight);
  }));
  for (std::size_t i = 0; i < errors.size(); ++i) {
    if (!measured[i]) continue;
    sum_ += errors[i].relative(), ++count_;
    context_->point(("error." + block_linears[i].short_name()).c_str(), static_cast<double>(layer),
                    errors[i].relative());
  }
  return walk_.advance(dense ? nullptr : &changed);
}

}  // namespace fettle::kit
