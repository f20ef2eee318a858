// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/eval/mean.h"
#include "fettle_kit/eval/scoring.h"
#include "fettle_kit/text/tokenizer.h"

#include <cstdint>
#include <vector>

namespace fettle::kit {

/// Convention: windows do not overlap and share nothing; every id of a window but its first is predicted from those
/// before it in the window, and every prediction counts once (no stride, no warm-up positions).
struct Perplexity {
  std::int64_t windows = 0, tokens = 0;  ///< tokens: predicted ones
  Mean nll;                              ///< nats a token
  Mean ppl;                              ///< exp(nll); its error is ppl times that of nll
  Mean bits_per_byte;                    ///< NaN without a tokenizer
  Mean confidence;                       ///< the largest probability of a position
  std::vector<double> window_nll;        ///< [windows], each the sum over its tokens
};

/// `tokenizer` (may be null) tells how many bytes of text the predicted ids stand for.
Result<Perplexity> perplexity(const Decoder& model, const TokenSet& windows, const Tokenizer* tokenizer = nullptr,
                              const Watch& watch = {});

}  // namespace fettle::kit
