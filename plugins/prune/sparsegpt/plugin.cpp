// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/gram.h"
#include "fettle_kit/calibrate/prune_blocks.h"

#include "sparsegpt.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

struct Params : CalibratedPruneParams {
  double damping = 0.01;
  int block = 128;
};

/// Prunes matrix after matrix as the walk asks for them.
class Pruner {
 public:
  explicit Pruner(const Params& p) : p_(p) {}

  Result<PrunedMatrix> operator()(const PruneTarget& target, const Gram& gram) {
    const TensorView& t = *target.tensor;
    if (prunes_nothing(target.sparsity)) return zeroed(t, Mask(t.rows(), t.cols()));
    FETTLE_ASSIGN(const SweepFactor* const factor, factor_of(t, gram));
    weights_.resize(static_cast<std::size_t>(t.elements()));
    info(t.dtype).to_f32(t.bytes.data(), weights_.data(), weights_.size());
    const MutMatrix view(weights_.data(), t.rows(), t.cols());
    sparsegpt::Rule rule(t.rows(), t.cols(), target.sparsity, &costs_.of(t.name));
    const SweepReport swept = sweep_columns(view, *factor, rule, p_.block);
    if (!all_numbers(view)) return failed(t, "the update gave NaN");
    dead_inputs_ += swept.dead_columns;
    PrunedMatrix result{std::move(rule).take_mask(), std::vector<std::byte>(t.bytes.size())};
    info(t.dtype).from_f32(weights_.data(), result.bytes.data(), weights_.size());
    return result;
  }

  void report(const fettle::Context& context) const {
    costs_.report(context);
    context.metric("dead_inputs", static_cast<double>(dead_inputs_));
  }

 private:
  /// q, k and v share what they read, and so do gate and up: factored once.
  Result<const SweepFactor*> factor_of(const TensorView& t, const Gram& gram) {
    const std::int64_t layer = layer_of(t.name);
    if (factor_ && layer == layer_ && &gram == gram_) return &*factor_;
    factor_.reset();
    auto factor = sweep_factor(gram.sum(), p_.damping);
    if (!factor) return failed(t, factor.error().message());
    factor_ = *std::move(factor);
    layer_ = layer, gram_ = &gram;
    return &*factor_;
  }

  static Status failed(const TensorView& t, const std::string& why) {
    return {
        Code::invalid_argument,
        fmt::format("tensor '{}': {}; raise 'damping', check the model and its calibration text for NaN, or put the "
                    "tensor into 'ignore'",
                    t.name, why)};
  }

  const Params& p_;
  std::vector<float> weights_;
  std::optional<SweepFactor> factor_;
  std::int64_t layer_ = -1;
  const Gram* gram_ = nullptr;
  ScoreHistograms costs_;
  std::int64_t dead_inputs_ = 0;
};

class PruneSparseGpt {
 public:
  using Params = ::Params;

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.sparsegpt",
                                  "Zero the weights that cost least and let the others make up for them.");
    d.epoch(4).version("1.0").determinism(FETTLE_ISA).reference("Frantar & Alistarh 2023, arXiv:2301.00774, section 3");
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
    FETTLE_TRY(check_foretold_tokens(p, in));
    const double hidden = in.at("model").number("hidden"), ffn = in.at("model").number("ffn");
    const double widest = std::max(hidden, ffn);
    // Four Gram matrices of a block; of the widest one copy with damping, and its factor.
    const double statistics = 8 * (3 * hidden * hidden + ffn * ffn);
    return estimate_calibrated_pruning(p, in, e, statistics, 3 * widest, 16 * widest * widest);
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(PruneWalk walk, chosen_walk(model, p));
    walk.fitted = true;
    Pruner pruner(p);
    FETTLE_TRY(prune_blocks<Gram>(model, walk, context, std::ref(pruner)));
    pruner.report(context);
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-sparsegpt", "0.1.0", "Fettle", "Apache-2.0", PruneSparseGpt)
