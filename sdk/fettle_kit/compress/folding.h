// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <span>
#include <vector>

namespace fettle::kit {

// Moves factors between a linear and what comes before it, so that the function stays: columns of the linear times s,
// what feeds them divided by s. AWQ (Lin et al. 2023, arXiv:2306.00978) and SmoothQuant (Xiao et al. 2022,
// arXiv:2211.10438) choose s; this carries it out. [any thread]

/// w[:, j] *= scales[j]
void scale_columns(MutMatrix w, std::span<const float> scales);
/// w[i, :] /= scales[i], bias[i] /= scales[i] where there is a bias
void divide_rows(MutMatrix w, std::span<float> bias, std::span<const float> scales);

/// Divides the factors of a norm (1 + w where the family stores w: `unit_offset`) by `scales`, which become what the
/// columns behind must be multiplied by: since the norm is stored as `stored`, its rounded value is divided by, so that
/// the rounding costs nothing. Where a factor is 0, or would round to 0 or infinity, it stays, with scale 1.
void fold_into_norm(std::span<float> factors, std::span<float> scales, DType stored, bool unit_offset);

/// Values by query head, [heads * dim], to values by key-value head, [kv_heads * dim]: the mean over the query heads
/// that share one (head h uses h / (heads / kv_heads)).
std::vector<float> mean_over_sharing_heads(std::span<const float> by_head, std::int64_t heads, std::int64_t kv_heads);
/// The largest instead of the mean.
std::vector<float> largest_of_sharing_heads(std::span<const float> by_head, std::int64_t heads, std::int64_t kv_heads);
/// The way back: each key-value head's values for every query head that uses it.
std::vector<float> repeat_for_heads(std::span<const float> by_kv_head, std::int64_t heads, std::int64_t kv_heads);

}  // namespace fettle::kit
