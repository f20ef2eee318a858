// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"
#include "fettle_kit/calibrate/block_walk.h"

#include <functional>
#include <optional>
#include <string>

namespace fettle::kit {

/// Calibration tokens in two parts: those a technique fits to, and some kept aside to measure it on.
struct SplitTokens {
  TokenSet used;
  std::optional<TokenSet> held;
};
/// `held_out` sequences, by default one in 16. invalid_argument if none are left to calibrate on.
Result<SplitTokens> split_tokens(const TokenSet& tokens, std::optional<int> held_out);

/// How far the outputs of each changed matrix move on tokens that it was not fitted to: follows a technique block by
/// block, and reports a series error.<linear> over the layers.
class HeldOutErrors {
 public:
  HeldOutErrors(const Decoder& model, BlockWalk walk, Context& context)
      : model_(&model), walk_(std::move(walk)), context_(&context) {}
  /// The block that the walk is at, whose linears are now `changed`; `moved` tells by tensor name which of them differ.
  /// Goes on to the next block with `changed` or, for `dense`, as the model has it.
  Status measure(const BlockWeights& changed, bool dense, const std::function<bool(const std::string&)>& moved);
  /// Mean over the matrices so far; nothing before the first.
  std::optional<double> mean() const { return count_ > 0 ? std::optional(sum_ / count_) : std::nullopt; }

 private:
  const Decoder* model_;
  BlockWalk walk_;
  Context* context_;
  double sum_ = 0;
  int count_ = 0;
};

}  // namespace fettle::kit
