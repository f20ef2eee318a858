// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/calibrate/importance.h"
#include "fettle_kit/compress/slicing.h"
#include "fettle_kit/model/decoder.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// Width pruning on plain numbers: how large, and which parts stay.
namespace width {

using fettle::Result;
using fettle::kit::DecoderShape;

/// What the user asks of the sizes; empty: leave the axis, or search it if there is a budget.
struct Wish {
  std::optional<double> ffn, heads, kv_heads, hidden;  ///< shares to keep, (0, 1]
  std::optional<std::int64_t> ffn_size, head_count, kv_head_count, hidden_size;
  std::optional<std::int64_t> multiple;  ///< of ffn and hidden size

  bool any() const;
  bool says_ffn() const { return ffn || ffn_size; }
  bool says_heads() const { return heads || head_count; }
  bool says_kv_heads() const { return kv_heads || kv_head_count; }
  bool says_hidden() const { return hidden || hidden_size; }
};

/// `multiple`, or the largest power of two up to 256 that divides the dense size: k-quants go by rows of 256, and what
/// they can store now they can store afterwards.
std::int64_t multiple_of(const Wish& wish, std::int64_t dense);

/// The sizes asked for. Sizes are whole multiples, query heads the same count in every KV group. Errors name the
/// parameter.
Result<DecoderShape> wanted_shape(const Wish& wish, const DecoderShape& dense);

/// A sentence for a size that k-quants could store before the cut and cannot after it; "" otherwise.
std::string k_quant_warning(const DecoderShape& dense, const DecoderShape& cut);

/// Shapes of at most `budget` parameters, largest first, at most `count`: the axes that the wish does not fix are
/// searched down to `floor` of their size, with the widest FFN that fits each choice of the others. Errors: the model
/// is within the budget already; nothing fits.
Result<std::vector<DecoderShape>> candidates(const Wish& wish, const fettle::kit::ModelConfig& dense,
                                             std::int64_t budget, double floor, std::int64_t count);

/// The config's parameter count at other sizes.
std::int64_t parameters_of(fettle::kit::ModelConfig config, const DecoderShape& shape);

/// What stays where scores are high. All [layers, parts], hidden [1, hidden].
struct Scores {
  fettle::kit::Rows ffn, heads, kv_heads, hidden;
};

/// By use: the importance artifact; a KV head scores as its query heads together.
Scores activation_scores(const fettle::kit::Importance& importance, const DecoderShape& shape);
/// By the L2 norm of all weights that belong to a part.
Scores weight_scores(const fettle::kit::Decoder& model);
/// Uniform random numbers, for comparison.
Scores random_scores(const DecoderShape& shape, std::uint64_t seed);

/// The best parts by the scores: in every block the same counts, query heads inside the kept KV groups.
fettle::kit::KeptParts keep(const Scores& scores, const DecoderShape& dense, const DecoderShape& cut);

}  // namespace width
