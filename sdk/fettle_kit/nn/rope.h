// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <span>
#include <vector>

namespace fettle::kit {

/// Cosine and sine of every angle a run of positions needs: row p holds position first + p, column i the pair (i, i +
/// D/2) of a head, as Hugging Face checkpoints lay heads out (Su et al. 2021, section 3.2.2).
struct RopeTable {
  std::int64_t pairs = 0;       ///< D / 2
  std::vector<float> cos, sin;  ///< [positions, pairs]
};

/// angle = position * frequency in f32, as transformers computes it; both tables are multiplied by `magnitude`.
RopeTable rope_table(std::span<const float> frequencies, float magnitude, std::int64_t first, std::int64_t positions);

/// Rotates every head of x [positions * sequences, heads * D] in place. Row r stands at table row r % positions.
void rotate_heads(MutMatrix x, const RopeTable& table, std::int64_t positions);

}  // namespace fettle::kit
