// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/text/token_set.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

// Depth pruning on plain numbers: how many blocks, and which.
namespace depth {

using fettle::Result;

/// What the user asks; exactly one of the first three.
struct Wish {
  std::optional<double> layers;             ///< share to keep
  std::optional<std::int64_t> layer_count;  ///< to keep
  std::vector<std::int64_t> remove;         ///< these
  bool contiguous = false;
  std::int64_t protect_first = 1, protect_last = 1;
};

/// How many of the `dense` blocks go. Errors name the parameter; among them that too many are protected.
Result<std::int64_t> count_to_remove(const Wish& wish, std::int64_t dense);

/// `count` blocks one after the other.
struct Run {
  std::int64_t first = 0, count = 1;
};
/// The runs of `count` blocks that may go, those in `gone` aside.
std::vector<Run> removable(const Wish& wish, std::int64_t dense, std::int64_t count, const std::vector<bool>& gone);

/// The blocks of least total score, ascending: in one run if the wish says so. Of equal ones the first.
std::vector<std::int64_t> least(const Wish& wish, std::span<const float> scores, std::int64_t count);

/// Mean negative log-likelihood, nats a token, of the model without the blocks in `gone`, then for each run the same
/// without that too. What comes before a run is computed once for all of them. Memory: the states before every block
/// for portion_rows tokens.
struct Losses {
  double all = 0;
  std::vector<double> without;  ///< [runs]
};
Result<Losses> losses_without(const fettle::kit::Decoder& model, const fettle::kit::TokenSet& tokens,
                              const std::vector<bool>& gone, std::span<const Run> runs,
                              const std::function<bool()>& stop);
inline constexpr std::int64_t portion_rows = 1024;

/// Spearman's rank correlation; equal values share their mean rank. NaN for fewer than 3 pairs or equal values only.
double rank_correlation(std::span<const double> a, std::span<const double> b);

}  // namespace depth
