// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/eval/mean.h"
#include "fettle_kit/eval/scoring.h"

namespace fettle::kit {

/// A candidate against a reference on the same windows (convention of Perplexity). All means are a token; standard
/// errors are over windows and paired: both models see the same text, so its difficulty cancels in the differences.
struct Comparison {
  std::int64_t windows = 0, tokens = 0;
  Mean ppl, reference_ppl;
  Mean delta_nll;  ///< candidate's NLL minus the reference's, nats
  Mean kl;         ///< sum over the vocabulary of p ln(p / q), p of the reference, q of the candidate, nats
  Mean top1;       ///< share of positions where both put the same token first (the lower id of a tie)
};

/// Errors: vocabularies of different size, and those of score_windows.
Result<Comparison> compare(const Decoder& candidate, const Decoder& reference, const TokenSet& windows,
                           const Watch& watch = {});

}  // namespace fettle::kit
