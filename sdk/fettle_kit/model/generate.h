// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/model/decoder.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace fettle::kit {

/// How the next token is chosen from its logits.
struct Sampling {
  double temperature = 0;  ///< 0: always the likeliest, the lower id of a tie; else logits are divided by it
  std::int64_t top_k = 0;  ///< only the k likeliest; 0: all
  double top_p = 1;  ///< then only the fewest likeliest that together reach this probability (Holtzman et al. 2020)
  std::uint64_t seed = 0;
};

/// Chooses token number `step` of text number `stream`: the random number depends on seed, stream and step alone.
std::int32_t choose_token(std::span<const float> logits, const Sampling& sampling, std::uint64_t stream,
                          std::uint64_t step);

/// Continues `prompt` (at least one id) by up to `max_tokens` tokens, fewer at an end-of-text token (which is not
/// returned) or where the model's context is full. `stop` is polled between blocks. `on_token` (may be empty) sees each
/// as it comes.
Result<std::vector<std::int32_t>> generate(const Decoder& model, std::span<const std::int32_t> prompt,
                                           std::int64_t max_tokens, const Sampling& sampling, std::uint64_t stream = 0,
                                           const std::function<bool()>& stop = {},
                                           const std::function<void(std::int32_t)>& on_token = {});

}  // namespace fettle::kit
