// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/text/token_set.h"
#include "fettle_kit/text/tokenizer.h"

#include <cstdint>
#include <optional>

namespace fettle::kit {

/// What evaluations measure on, from two ports of which exactly one is connected: "tokens", rows that are taken as they
/// are, or "text", which windows_of_text cuts.
struct WindowChoice {
  std::optional<std::int64_t> length;  ///< of a window, for text; absent: the model's context, at most 512
  std::int64_t windows = 0;            ///< at most so many from the start; 0: all
};

/// Cheap: for estimate(), so that a plan already fails. Both ports or neither, or `length` together with tokens.
Status check_measured_text(const Inputs& inputs, const WindowChoice& choice);

/// `tokenizer` cuts the text, or must be the one that made the tokens; null: no text can be cut and tokens are trusted.
Result<TokenSet> measured_windows(const Inputs& inputs, const WindowChoice& choice, std::int64_t context,
                                  const Tokenizer* tokenizer);

/// Tokens of a window, from attributes alone.
std::int64_t window_length(const Inputs& inputs, const WindowChoice& choice, double context);

/// About how many tokens that will be, from attributes alone: a token of text is taken for three bytes.
double estimated_tokens(const Inputs& inputs, const WindowChoice& choice, double context);

}  // namespace fettle::kit
