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
  std::optional<int> held_out;
  std::string precision = "f32";
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
             one_of({"compressed", "dense"}))
      .param("held_out", static_cast<std::optional<int> Params::*>(&CalibratedPruneParams::held_out),
             "calibration sequences to keep aside, to measure the error of each matrix on; by default one in 16",
             at_least(0, "sequences"))
      .param("precision", static_cast<std::string Params::*>(&CalibratedPruneParams::precision),
             "of the factors of matrix products in the blocks, while inputs are measured; bf16 is several times faster "
             "where the machine has AMX",
             one_of({"f32", "bf16"}));
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

/// What a walk prunes, and how it goes on.
struct PruneWalk {
  std::vector<PruneTarget> targets;  ///< any of the seven linears of the blocks
  bool dense_propagation = false;    ///< the next block sees what the original puts out
  std::optional<int> held_out;       ///< sequences; by default one in 16
  std::string sparsity;              ///< the attribute of the result
  Precision precision = Precision::real;
};

/// Walks the calibration tokens through the model and prunes block after block: measures the block, prunes its targets,
/// lets the next block see the result (or the dense outputs), writes checkpoint and masks as it goes. Reports progress,
/// the metrics sparsity, sparsity_of_model, pruned, matrices, calibration_tokens, and what the held-out sequences show:
/// the metric reconstruction_error and a series error.<linear> over the layers (ReconstructionError). Memory:
/// estimate_calibrated_pruning().
Status prune_blocks(const Checkpoint& checkpoint, const PruneWalk& walk, Context& context,
                    const BlockPruning& technique);
/// The walk that the parameters ask for.
Result<PruneWalk> chosen_walk(const Checkpoint& checkpoint, const CalibratedPruneParams& params);

/// The same with one `Accumulator(width)` a site, which sees the inputs through add(ConstMatrix):
///   return prune_blocks<ColumnNorms>(params, context, [&](const PruneTarget&, const ColumnNorms&) { ... });
template <class Accumulator, class Prune>
Status prune_blocks(const Checkpoint& checkpoint, const PruneWalk& walk, Context& context, Prune prune) {
  std::array<std::optional<Accumulator>, site_count> statistics;
  BlockPruning technique;
  technique.begin_block = [&] { statistics.fill(std::nullopt); };
  technique.observe = [&](Site site, ConstMatrix x) {
    auto& seen = statistics[index_of(site)];
    if (!seen) seen.emplace(x.cols);
    seen->add(x);
  };
  technique.prune = [&](const PruneTarget& target, Site site) { return prune(target, *statistics[index_of(site)]); };
  return prune_blocks(checkpoint, walk, context, technique);
}
template <class Accumulator, class Prune>
Status prune_blocks(const CalibratedPruneParams& params, Context& context, Prune prune) {
  FETTLE_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(context.inputs.at("model").path()));
  FETTLE_ASSIGN(const PruneWalk walk, chosen_walk(checkpoint, params));
  return prune_blocks<Accumulator>(checkpoint, walk, context, std::move(prune));
}

/// Prunes the lowest scores of a matrix. `score` turns weights [rows, cols] into scores, in place. An error names the
/// tensor if a score is not a number.
Result<PrunedMatrix> prune_by_scores(const PruneTarget& target, std::vector<float>& buffer,
                                     const std::function<void(MutMatrix)>& score);

/// Memory, disk and flops of such a step. `statistics_bytes`: of the accumulators of one block. `flops_a_weight`: of
/// the technique itself, beyond the two passes of the calibration tokens. Refuses families that the engine does not
/// run.
Status estimate_prune_walk(const Inputs& inputs, Estimate& estimate, double statistics_bytes, double flops_a_weight);
/// The same, and the attribute `sparsity` of the result.
Status estimate_calibrated_pruning(const CalibratedPruneParams& params, const Inputs& inputs, Estimate& estimate,
                                   double statistics_bytes, double flops_a_weight);

}  // namespace fettle::kit
