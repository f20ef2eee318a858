// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/gram.h"
#include "fettle_kit/calibrate/prune_blocks.h"

#include "refit.h"

#include <fmt/format.h>

#include <algorithm>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

class PruneRefit {
 public:
  struct Params {
    int iterations = 20;
    double damping = 0.01;
    std::string propagation = "compressed";
    bool true_sequential = false;
    std::optional<int> held_out;
    std::string precision = "f32";
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.refit", "Fit the weights that a mask kept to what the original puts out.");
    return d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Meng et al. 2024 (ALPS), arXiv:2406.07831, section 3.3")
        .input("model", "model", "the original: a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .input("mask", "mask", "which weights stay; from any prune technique, for this model")
        .input("calibration", "tokens", "text like what the model will read; 16 tokens an input are good",
               "tokenizer=@model")
        .optional_input("start", "model", "the pruned model to start from; by default the original with zeros",
                        "layout=hf; weights=f32|f16|bf16|mixed")
        .output("model", "model", "the checkpoint with the same zeros and better weights")
        .output("mask", "mask", "the same mask")
        .param("iterations", &Params::iterations, "of conjugate gradients", fettle::in_range(1, 1000))
        .param("damping", &Params::damping, "added to the diagonal of the inputs' Gram matrix, as a share of its mean",
               fettle::in_range(1e-6, 1))
        .param("propagation", &Params::propagation,
               "what the next block is calibrated on: outputs of the changed block, or the dense",
               fettle::one_of({"compressed", "dense"}))
        .param("true_sequential", &Params::true_sequential,
               "measure o_proj, gate and up, and down_proj again after what feeds them is pruned: four passes a block")
        .param("held_out", &Params::held_out,
               "calibration sequences to keep aside, to measure the error of each matrix on; by default one in 16",
               fettle::at_least(0, "sequences"))
        .param("precision", &Params::precision,
               "of the factors of matrix products in the blocks, while inputs are measured; bf16 is faster where "
               "the processor multiplies it, several times with AMX, 1.5 times with AVX512_BF16",
               fettle::one_of({"f32", "bf16"}));
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const double hidden = in.at("model").number("hidden"), ffn = in.at("model").number("ffn");
    const double widest = std::max(hidden, ffn);
    // Four Gram matrices of a block, one of them as f32, five copies of the largest matrix.
    const double statistics = 8 * (3 * hidden * hidden + ffn * ffn);
    const int passes = p.true_sequential ? 5 : p.propagation == "dense" ? 1 : 2;
    return estimate_prune_walk(in, e, statistics, widest + 2.0 * p.iterations * widest, passes,
                               4 * widest * widest + 16 * hidden * widest);
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto masks, read_masks(context.inputs.at("mask").path()));
    FETTLE_ASSIGN(auto targets, masked_matrices(model, masks));
    std::optional<Checkpoint> start;
    if (const auto input = context.inputs.find("start")) {
      FETTLE_ASSIGN(start, Checkpoint::open(input->path()));
    }
    double before = 0, after = 0;
    const auto fit = [&](const PruneTarget& target, const Gram& gram) -> fettle::Result<PrunedMatrix> {
      const TensorView& t = *target.tensor;
      const Mask& mask = masks.at(t.name);
      FETTLE_ASSIGN(const TensorView* const from, start ? same_matrix(*start, t) : &t);
      std::vector<float> original(static_cast<std::size_t>(t.elements())), weights(original.size());
      info(t.dtype).to_f32(t.bytes.data(), original.data(), original.size());
      info(from->dtype).to_f32(from->bytes.data(), weights.data(), weights.size());
      const MutMatrix w(weights.data(), t.rows(), t.cols());
      for (std::int64_t i = 0; i < w.rows; ++i)
        for (std::int64_t j = 0; j < w.cols; ++j)
          if (!mask.kept(i, j)) w(i, j) = 0;
      const refit::Report report =
          refit::fit(w, ConstMatrix(original.data(), t.rows(), t.cols()), gram.sum(), mask, {p.iterations, p.damping});
      if (!all_numbers(w))
        return Status(Code::invalid_argument,
                      fmt::format("tensor '{}': the fit gave NaN; raise 'damping', or check the model and its "
                                  "calibration text for NaN",
                                  t.name));
      before += report.before, after += report.after;
      PrunedMatrix result{mask, std::vector<std::byte>(t.bytes.size())};
      info(t.dtype).from_f32(weights.data(), result.bytes.data(), weights.size());
      return result;
    };
    PruneWalk walk;
    walk.targets = std::move(targets);
    walk.dense_propagation = p.propagation == "dense";
    walk.true_sequential = p.true_sequential;
    walk.held_out = p.held_out;
    walk.sparsity = sparsity_text(masks);
    walk.precision = precision_of(p.precision);
    walk.fitted = true;
    FETTLE_TRY(prune_blocks<Gram>(model, walk, context, fit));
    context.metric("error_ratio", before > 0 ? after / before : 1);
    return {};
  }

 private:
  static fettle::Result<const TensorView*> same_matrix(const Checkpoint& start, const TensorView& t) {
    FETTLE_ASSIGN(const TensorView* const found, start.require(t.name));
    if (found->shape != t.shape || !is_float(found->dtype))
      return Status(
          Code::invalid_argument,
          fmt::format("tensor '{}' of 'start' is {} [{}], but the original's is [{}]; both must be the same "
                      "model",
                      t.name, info(found->dtype).name, fmt::join(found->shape, ", "), fmt::join(t.shape, ", ")),
          "start");
    return found;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-refit", "0.1.0", "Fettle", "Apache-2.0", PruneRefit)
