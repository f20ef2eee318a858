// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"
#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/compress/pruning.h"

#include <array>
#include <functional>
#include <optional>
#include <vector>

namespace fettle::kit {

/// Parameters of the techniques that prune with calibration data.
struct CalibratedPruneParams : PruneParams {
  std::string propagation = "compressed";
};

/// The ports and parameters they share: model and calibration in, model and mask out.
template <class Params>
Description<Params>& with_calibrated_pruning(Description<Params>& description) {
  description
      .input("model", "model", "a Hugging Face checkpoint with plain weights", "layout=hf; weights=f32|f16|bf16|mixed")
      .input("calibration", "tokens", "text like what the model will read; 128 sequences are plenty",
             "tokenizer=@model")
      .output("model", "model", "the checkpoint with exact zeros; same shapes, same types")
      .output("mask", "mask", "which weights were kept");
  return with_prune_params(description)
      .param("propagation", static_cast<std::string Params::*>(&CalibratedPruneParams::propagation),
             "what the next block is calibrated on: outputs of the pruned block, or the dense",
             one_of({"compressed", "dense"}));
}

/// What a technique makes of one matrix.
struct PrunedMatrix {
  Mask mask;
  std::vector<std::byte> bytes;  ///< [rows, cols] in the type the checkpoint stores
};

/// Makes the PrunedMatrix that keeps what the mask keeps, with weights as they are stored.
PrunedMatrix zeroed(const TensorView& tensor, Mask mask);

/// How a technique looks at a block and what it does then.
struct BlockPruning {
  std::function<void()> begin_block;
  BlockObserver observe;  ///< inputs of the block's linears, all calibration tokens in portions
  std::function<Result<PrunedMatrix>(const PruneTarget&, Site)> prune;
};

/// Walks the calibration tokens through the model and prunes block after block: measures the block, prunes its targets,
/// lets the next block see the result (or the dense outputs), writes checkpoint and masks as it goes. Reports progress
/// and the metrics sparsity, sparsity_of_model, pruned, matrices, calibration_tokens. Memory:
/// estimate_calibrated_pruning().
Status prune_blocks(const CalibratedPruneParams& params, Context& context, const BlockPruning& technique);

/// The same with one `Accumulator(width)` a site, which sees the inputs through add(ConstMatrix):
///   return prune_blocks<ColumnNorms>(params, context, [&](const PruneTarget&, const ColumnNorms&) { ... });
template <class Accumulator, class Prune>
Status prune_blocks(const CalibratedPruneParams& params, Context& context, Prune prune) {
  std::array<std::optional<Accumulator>, site_count> statistics;
  BlockPruning technique;
  technique.begin_block = [&] { statistics.fill(std::nullopt); };
  technique.observe = [&](Site site, ConstMatrix x) {
    auto& seen = statistics[index_of(site)];
    if (!seen) seen.emplace(x.cols);
    seen->add(x);
  };
  technique.prune = [&](const PruneTarget& target, Site site) { return prune(target, *statistics[index_of(site)]); };
  return prune_blocks(params, context, technique);
}

/// Memory, disk, flops and attributes of such a step. `statistics_bytes`: of the accumulators of one block.
/// `flops_a_weight`: of the technique itself, beyond the two passes of the calibration tokens.
void estimate_calibrated_pruning(const CalibratedPruneParams& params, const Inputs& inputs, Estimate& estimate,
                                 double statistics_bytes, double flops_a_weight);

}  // namespace fettle::kit
