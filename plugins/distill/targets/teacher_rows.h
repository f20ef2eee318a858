// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

namespace distill_targets {

/// Of softmax(logits / temperature): the k most likely ids in ascending order, ln p of each as f16, and what they leave
/// of the mass. Of equal logits the lower id counts as the likelier. Without `keep_tail` the k are made to sum to 1.
/// False if a logit is NaN or infinite. The logits are overwritten.
bool most_likely(std::span<float> logits, double temperature, bool keep_tail, std::span<std::int32_t> ids,
                 std::span<std::uint16_t> log_p, float& tail);

/// Random draws from softmax(logits / temperature): distinct ids in ascending order and how often each came; returns
/// how many there are, 0 if a logit is NaN or infinite. The numbers drawn depend on (seed, row) alone, the ids that
/// they mean on the logits. ids and counts hold `draws` places; the logits are overwritten.
std::size_t draw(std::span<float> logits, double temperature, std::size_t draws, std::uint64_t seed, std::uint64_t row,
                 std::span<std::int32_t> ids, std::span<std::uint8_t> counts);

}  // namespace distill_targets
