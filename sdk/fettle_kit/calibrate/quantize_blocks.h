// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"
#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/io/checkpoint.h"

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace fettle::kit {

/// Parameters of the techniques that quantize with calibration data, beside those of the grid.
struct CalibratedQuantizeParams {
  std::string propagation = "compressed";
  bool true_sequential = false;
  std::optional<int> held_out;
};

/// Those of a technique that measures a block once.
template <class Params>
Description<Params>& with_one_pass_quantization(Description<Params>& description) {
  const auto own = []<class T>(T CalibratedQuantizeParams::*member) { return static_cast<T Params::*>(member); };
  return description
      .param("propagation", own(&CalibratedQuantizeParams::propagation),
             "what the next block is calibrated on: outputs of the quantized block, or the dense",
             one_of({"compressed", "dense"}))
      .param("held_out", own(&CalibratedQuantizeParams::held_out),
             "calibration sequences to keep aside, to measure the error of each matrix on; by default one in 16",
             at_least(0, "sequences"));
}

template <class Params>
Description<Params>& with_calibrated_quantization(Description<Params>& description) {
  return with_one_pass_quantization(description)
      .param(
          "true_sequential", static_cast<bool Params::*>(&CalibratedQuantizeParams::true_sequential),
          "measure o_proj, gate and up, and down_proj again after what feeds them is quantized: four passes a block");
}

/// How a technique looks at a block and what it does then.
struct BlockQuantization {
  std::function<void(Site)> begin_site;  ///< its inputs are about to be shown, all calibration tokens in portions
  BlockObserver observe;
  /// Optional: sees what a cache would hold of the rows last shown at Site::attention_in, by the block's own k and v.
  std::function<void(ConstMatrix keys, ConstMatrix values)> observe_cache;
  /// Optional: all sites of the block that the walk is at were shown, none of its matrices is quantized yet. Not for
  /// techniques that offer true_sequential.
  std::function<Status(const Decoder&, const BlockWalk&)> begin_block;
  /// What the matrix will be read as, [rows, cols]. Its stored form goes into the technique's own writer.
  std::function<Result<std::vector<float>>(const TensorView&, Site)> quantize;
};

/// The four of an object that has them as members. Borrows it.
template <class Quantizer>
BlockQuantization block_quantization(Quantizer& quantizer) {
  BlockQuantization technique;
  technique.begin_site = [&](Site site) { quantizer.begin_site(site); };
  technique.observe = [&](Site site, ConstMatrix x) { quantizer.observe(site, x); };
  technique.begin_block = [&](const Decoder& model, const BlockWalk& walk) {
    return quantizer.begin_block(model, walk);
  };
  technique.quantize = [&](const TensorView& t, Site site) { return quantizer.quantize(t, site); };
  return technique;
}

/// Walks the calibration tokens through the model and quantizes block after block, in the order of the blocks: measures
/// the block, quantizes its targets, lets the next block see the result (or the dense outputs). Reports progress, the
/// metrics matrices and calibration_tokens, and what the held-out sequences show: reconstruction_error and a series
/// error.<linear> over the layers. Memory: estimate_quantize_walk().
Status quantize_blocks(const Checkpoint& checkpoint, const std::vector<const TensorView*>& targets,
                       const CalibratedQuantizeParams& params, Context& context, const BlockQuantization& technique);

/// The same with one `Accumulator(width)` a site, which sees the inputs through add(ConstMatrix).
template <class Accumulator, class Quantize>
Status quantize_blocks(const Checkpoint& checkpoint, const std::vector<const TensorView*>& targets,
                       const CalibratedQuantizeParams& params, Context& context, Quantize quantize) {
  std::array<std::optional<Accumulator>, site_count> statistics;
  BlockQuantization technique;
  technique.begin_site = [&](Site site) { statistics[index_of(site)].reset(); };
  technique.observe = [&](Site site, ConstMatrix x) {
    auto& seen = statistics[index_of(site)];
    if (!seen) seen.emplace(x.cols);
    seen->add(x);
  };
  technique.quantize = [&](const TensorView& t, Site site) { return quantize(t, site, *statistics[index_of(site)]); };
  return quantize_blocks(checkpoint, targets, params, context, technique);
}

/// Fewer calibration tokens than twice the inputs of a matrix are an error, below 16 times a warning, said once.
class EnoughTokens {
 public:
  explicit EnoughTokens(const Context& context) : context_(context) {}
  Status check(const TensorView& tensor, std::int64_t tokens);

 private:
  const Context& context_;
  bool said_few_ = false;
};

/// Memory, disk and flops of such a step. `statistics_bytes`: of the accumulators of one block. `flops_a_weight`: of
/// the technique itself. `solver_bytes`: what it takes beside the accumulators and the quantized block while it works
/// on one matrix, but for three copies of it. Refuses families that the engine does not run.
Status estimate_quantize_walk(const CalibratedQuantizeParams& params, const Inputs& inputs, Estimate& estimate,
                              double statistics_bytes, double flops_a_weight, double solver_bytes = 0);

}  // namespace fettle::kit
