// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/calibrate/foldable_block.h"
#include "fettle_kit/io/checkpoint.h"

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fettle::kit {

/// Where a checkpoint can take folds while some of its matrices are quantized, and what the folds change beside those.
/// `config` and `checkpoint` must outlive it. [any thread]
class FoldPlan {
 public:
  /// `dense_type`: what floats become in the new checkpoint; nothing: they stay as they are.
  FoldPlan(const ModelConfig& config, const Checkpoint& checkpoint, const std::vector<const TensorView*>& targets,
           std::optional<DType> dense_type);

  /// Whether all matrices that a fold at the site changes are quantized. A dense one would have to be rounded to its
  /// type once more, and is the user's wish to keep.
  bool folds(std::int64_t layer, Site site) const { return folds_[static_cast<std::size_t>(layer)][index_of(site)]; }
  /// How the norm before a site will be stored.
  DType norm_type(std::int64_t layer, Site site) const;

  /// Plain tensors that get other values: norms, and biases of v and up.
  std::vector<const TensorView*> changed() const;
  /// Those of one block, from what was folded; each comes once.
  Status store(const FoldableBlock& block, std::int64_t layer,
               const std::function<Status(const TensorView&, std::span<const float>)>& put) const;

 private:
  /// What a fold at the site changes beside matrices; null: nothing.
  const TensorView* feeder(std::int64_t layer, Site site) const;

  const ModelConfig* config_;
  const Checkpoint* checkpoint_;
  std::optional<DType> dense_type_;
  std::vector<std::array<bool, site_count>> folds_;
};

}  // namespace fettle::kit
