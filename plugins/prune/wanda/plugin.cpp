// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/column_norms.h"
#include "fettle_kit/calibrate/prune_blocks.h"

#include "wanda.h"

namespace {

using fettle::Status;
using namespace fettle::kit;

class PruneWanda {
 public:
  struct Params : CalibratedPruneParams {
    Params() { group = "row"; }
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.wanda", "Zero the weights of smallest |weight| x input norm.");
    d.epoch(2).version("1.0").determinism(FETTLE_ISA).reference("Sun et al. 2023, arXiv:2306.11695, section 3");
    return with_calibrated_pruning(d);
  }

  static Status validate(const Params& p) { return check_prune_params(p); }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    return estimate_calibrated_pruning(p, in, e, 0, 0);  // four vectors of norms, one comparison a weight
  }

  static Status run(const Params& p, fettle::Context& context) {
    ScorePruner pruner;
    const auto prune = [&](const PruneTarget& target, const ColumnNorms& norms) {
      return pruner.prune(target, [&](MutMatrix w) { wanda::score(w, norms.l2()); });
    };
    FETTLE_TRY(prune_blocks<ColumnNorms>(p, context, prune));
    pruner.report(context);
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-wanda", "0.1.0", "Fettle", "Apache-2.0", PruneWanda)
