// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/gram.h"
#include "fettle_kit/calibrate/prune_blocks.h"

#include "sparsegpt.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

class PruneSparseGpt {
 public:
  struct Params : CalibratedPruneParams {
    double damping = 0.01;
    int block = 128;
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.sparsegpt",
                                  "Zero the weights that cost least and let the others make up for them.");
    d.epoch(3).version("1.0").determinism(FETTLE_ISA).reference("Frantar & Alistarh 2023, arXiv:2301.00774, section 3");
    return with_calibrated_pruning(d)
        .param("damping", &Params::damping, "added to the diagonal of the inputs' Gram matrix, as a share of its mean",
               fettle::in_range(1e-6, 1))
        .param("block", &Params::block, "columns whose zeros are chosen together, and between two updates of the rest",
               fettle::in_range(1, 4096));
  }

  static Status validate(const Params& p) {
    FETTLE_TRY(check_prune_params(p));
    if (p.pattern) {
      FETTLE_ASSIGN(const NofM pattern, parse_n_of_m(*p.pattern));
      if (p.block % pattern.m != 0)
        return {Code::invalid_argument,
                fmt::format("block is {}, but must be a multiple of the {} of pattern '{}'; {} would fit", p.block,
                            pattern.m, *p.pattern, (p.block / pattern.m + 1) * pattern.m),
                "block"};
    }
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const double hidden = in.at("model").number("hidden"), ffn = in.at("model").number("ffn");
    const double widest = std::max(hidden, ffn);
    // Four Gram matrices of a block; one more copy, its factor, and one f32 product of the widest.
    const double statistics = 8 * (3 * hidden * hidden + ffn * ffn) + widest * widest * (8 + 8 + 4);
    return estimate_calibrated_pruning(p, in, e, statistics, 3 * widest);
  }

  static Status run(const Params& p, fettle::Context& context) {
    std::vector<float> weights;
    bool said_few = false;
    return prune_blocks<Gram>(
        p, context, [&](const PruneTarget& target, const Gram& gram) -> fettle::Result<PrunedMatrix> {
          const TensorView& t = *target.tensor;
          if (gram.rows() < 2 * t.cols())
            return Status(
                Code::invalid_argument,
                fmt::format("{} calibration tokens are too few for the {} inputs of '{}': below {} the update is "
                            "worse than none; give data.tokens more sequences (16 tokens an input are good)",
                            gram.rows(), t.cols(), t.name, 2 * t.cols()),
                "calibration");
          if (gram.rows() < 16 * t.cols() && !std::exchange(said_few, true))
            context.warn(
                fmt::format("{} calibration tokens are few for the {} inputs of '{}'; from {} on the result stops "
                            "improving",
                            gram.rows(), t.cols(), t.name, 16 * t.cols()));
          weights.resize(static_cast<std::size_t>(t.elements()));
          info(t.dtype).to_f32(t.bytes.data(), weights.data(), weights.size());
          const MutMatrix view(weights.data(), t.rows(), t.cols());
          sparsegpt::Rule rule(t.rows(), t.cols(), target.sparsity);
          auto swept = sweep_columns(view, gram.sum(), rule, {p.block, p.damping});
          if (!swept || !all_numbers(view))
            return Status(
                Code::invalid_argument,
                fmt::format("tensor '{}': {}; raise 'damping', check the model and its calibration text for NaN, "
                            "or put the tensor into 'ignore'",
                            t.name, swept ? "the update gave NaN" : swept.error().message()));
          PrunedMatrix result{std::move(rule).take_mask(), std::vector<std::byte>(t.bytes.size())};
          info(t.dtype).from_f32(weights.data(), result.bytes.data(), weights.size());
          return result;
        });
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-sparsegpt", "0.1.0", "Fettle", "Apache-2.0", PruneSparseGpt)
