// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/gguf_budget.h"

#include "rows.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace quantize_gguf {

/// Types that a tensor whose type is left open may get: those that its rows fit; IQ1 to IQ3 only with importance.
std::vector<fettle::kit::DType> candidate_types(std::int64_t cols, bool importance);

/// What each candidate costs a tensor: sum over its weights of importance * (w - stored w)^2, as a share of the same
/// sum over w^2 (without importance every column counts the same), times `scale`. Large tensors are judged by evenly
/// spaced rows. Runs on the caller's TBB arena; the same numbers for any thread count.
fettle::Result<std::vector<std::vector<fettle::kit::StorageOption>>> measure_options(
    std::span<const PlannedTensor> tensors, std::span<const std::vector<fettle::kit::DType>> candidates, Mode mode,
    const std::function<bool()>& cancelled);

}  // namespace quantize_gguf
