// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/text/token_set.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

namespace fettle::kit {

/// What a long evaluation reports and obeys. Both may be empty. [called from the evaluating thread]
struct Watch {
  std::function<bool()> stop;                                           ///< polled; true ends with Code::cancelled
  std::function<void(std::int64_t done, std::int64_t total)> progress;  ///< windows
};

/// Next-token logits of some consecutive positions of one window: row i predicts targets[i].
struct ScoredRows {
  std::int64_t window = 0;
  std::span<const std::int32_t> targets;
  std::span<const MutMatrix> logits;  ///< one a model, [targets.size(), vocab]; the visitor may overwrite them
};

/// Runs all windows through all models and shows every predicted position, in order: each window's ids but the first,
/// given those before them. Memory: the activations of about `batch_rows` tokens and the logits of
/// Decoder::logit_rows() rows a model. Errors: windows longer than a model's context, or shorter than 2 ids; ids
/// outside a vocabulary.
Status score_windows(std::span<const Decoder* const> models, const TokenSet& windows, const Watch& watch,
                     const std::function<void(const ScoredRows&)>& visit);

/// Tokens that go through the model at a time: enough that reading the weights is cheap beside multiplying with them.
inline constexpr std::int64_t batch_rows = 2048;
/// The same in whole windows, one at least.
constexpr std::int64_t tokens_at_once(std::int64_t length) {
  return std::max<std::int64_t>(1, batch_rows / length) * length;
}

/// -log softmax(logits)[target]; the row is overwritten. The sum runs in f32 over 16 lanes, the rest in f64.
double negative_log_likelihood(std::span<float> logits, std::int32_t target);

/// What is said of a model whose likelihoods are no numbers: no measure of it means anything.
Status not_finite(std::string_view which);

}  // namespace fettle::kit
