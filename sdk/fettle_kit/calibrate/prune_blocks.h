// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"
#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/compress/pruning.h"
#include "fettle_kit/compress/score_histogram.h"

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace fettle::kit {

/// Parameters of the techniques that prune with calibration data.
struct CalibratedPruneParams : PruneParams {
  std::string propagation = "compressed";
  bool true_sequential = false;
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
      .param("true_sequential", static_cast<bool Params::*>(&CalibratedPruneParams::true_sequential),
             "measure o_proj, gate and up, and down_proj again after what feeds them is pruned: four passes a block")
      .param("held_out", static_cast<std::optional<int> Params::*>(&CalibratedPruneParams::held_out),
             "calibration sequences to keep aside, to measure the error of each matrix on; by default one in 16",
             at_least(0, "sequences"))
      .param("precision", static_cast<std::string Params::*>(&CalibratedPruneParams::precision),
             "of the factors of matrix products in the blocks, while inputs are measured; bf16 is faster where the "
             "processor multiplies it, several times with AMX, 1.5 times with AVX512_BF16",
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
  std::function<void(Site)> begin_site;  ///< its inputs are about to be shown, all calibration tokens in portions
  BlockObserver observe;
  std::function<Result<PrunedMatrix>(const PruneTarget&, Site)> prune;
};

/// What a walk prunes, and how it goes on.
struct PruneWalk {
  std::vector<PruneTarget> targets;  ///< any of the seven linears of the blocks
  bool dense_propagation = false;    ///< the next block sees what the original puts out
  bool true_sequential = false;      ///< each site is measured with what comes before it in the block pruned
  std::optional<int> held_out;       ///< sequences; by default one in 16
  std::string sparsity;              ///< the attribute of the result
  Precision precision = Precision::real;
  bool fitted = false;  ///< the technique fits weights to the tokens: fewer than least_tokens_an_input are an error
};

/// Below this a fit to the inputs' correlations is worse than none; from good_tokens_an_input on it stops improving.
inline constexpr std::int64_t least_tokens_an_input = 2, good_tokens_an_input = 16;

/// Walks the calibration tokens through the model and prunes block after block: measures the block, prunes its targets,
/// lets the next block see the result (or the dense outputs), writes checkpoint and masks as it goes. Reports progress,
/// the metrics of PruneCounts, matrices, calibration_tokens, and what the held-out sequences show: the metric
/// reconstruction_error and a series error.<linear> over the layers (ReconstructionError). What is wrong with targets
/// and tokens is said before the walk begins. Memory: estimate_calibrated_pruning().
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
  technique.begin_site = [&](Site site) { statistics[index_of(site)].reset(); };
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

/// Prunes the lowest scores of matrices, and reports how the scores lay: a series scores.<linear>, a ScoreHistogram
/// over all blocks.
class ScorePruner {
 public:
  /// `score` turns weights [rows, cols] into scores, in place. An error names the tensor if a score is not a number.
  Result<PrunedMatrix> prune(const PruneTarget& target, const std::function<void(MutMatrix)>& score);
  void report(const Context& context) const { histograms_.report(context); }

 private:
  std::vector<float> buffer_;
  ScoreHistograms histograms_;
};

/// Memory, disk and flops of such a step. `statistics_bytes`: of the accumulators of one block. `flops_a_weight`: of
/// the technique itself, beyond `passes` of the calibration tokens. `solver_bytes`: what it takes beside the
/// accumulators while it prunes one matrix, but for that matrix as f32. Refuses families that the engine does not run.
Status estimate_prune_walk(const Inputs& inputs, Estimate& estimate, double statistics_bytes, double flops_a_weight,
                           int passes, double solver_bytes = 0);
/// The same, and the attribute `sparsity` of the result.
Status estimate_calibrated_pruning(const CalibratedPruneParams& params, const Inputs& inputs, Estimate& estimate,
                                   double statistics_bytes, double flops_a_weight, double solver_bytes = 0);
/// While planning: whether the foretold tokens are enough for a technique that fits to them, as far as the model's
/// attributes tell the widths of what is pruned.
Status check_foretold_tokens(const CalibratedPruneParams& params, const Inputs& inputs);

}  // namespace fettle::kit
