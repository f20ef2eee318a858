// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/model/decoder.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fettle::kit {

/// Places in block_linears of the two whose rows a fold divides.
inline constexpr std::size_t v_linear = 2, up_linear = 5;

/// One block as f32 that a technique may change: the seven matrices, their biases and the norms. Rows stand as in a
/// Hugging Face checkpoint. Memory: 4 bytes a weight of the block.
class FoldableBlock {
 public:
  FoldableBlock(const Decoder& model, std::int64_t layer);

  /// What Decoder::block() takes. Views into this, and copies of the small vectors, as they are now.
  BlockWeights weights() const;
  MutMatrix matrix(std::size_t linear);  ///< by its place in block_linears
  ConstMatrix matrix(std::size_t linear) const;
  std::span<const float> bias(std::size_t linear) const { return biases_[linear]; }
  const std::vector<float>& norm(Site site) const { return site == Site::attention_in ? attention_norm_ : mlp_norm_; }

  /// How many scales a fold at this site takes: the width of the site, but of attention_out the width of v (query heads
  /// that share a value head share its scales).
  std::int64_t fold_width(Site site) const;
  /// Multiplies the columns of the linears that read the site by `scales` and divides what feeds them: the norm before
  /// q, k, v or gate, up; the rows of v before o; the rows of up before down. The function stays, up to f32 rounding.
  /// `norm_type`: how the checkpoint stores the norm; scales of a norm are adjusted to its rounding (fold_into_norm)
  /// and returned as they were used.
  std::vector<float> fold(Site site, std::vector<float> scales, DType norm_type);
  /// The scales that fold() would use, without folding.
  std::vector<float> fitting(Site site, std::vector<float> scales, DType norm_type) const;
  /// What the columns of the linears that read a site were multiplied by in all folds.
  const std::vector<float>& column_scales(Site site) const { return columns_[index_of(site)]; }
  /// Undoes all folds in values that stand where matrix(linear) does: what they are to the model as it was.
  void unfold(std::size_t linear, MutMatrix values) const;

 private:
  const ModelConfig* config_;
  BlockWeights original_;
  std::array<std::vector<float>, block_linears.size()> matrices_, biases_;
  std::vector<float> attention_norm_, mlp_norm_;
  std::array<std::vector<float>, site_count> columns_;         ///< multiplied by
  std::array<std::vector<float>, block_linears.size()> rows_;  ///< divided by; empty: never
};

/// The name in a checkpoint of the norm before a site (attention_in or mlp_in) of a block.
std::string norm_name(const ModelConfig& config, Site site, std::int64_t layer);

}  // namespace fettle::kit
