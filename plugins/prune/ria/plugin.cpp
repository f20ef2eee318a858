// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/column_norms.h"
#include "fettle_kit/calibrate/prune_blocks.h"

#include "ria.h"

namespace {

using fettle::Status;
using namespace fettle::kit;

class PruneRia {
 public:
  struct Params : CalibratedPruneParams {
    double exponent = 0.5;
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.ria",
                                  "Zero the weights of least relative importance in their row and column.");
    d.epoch(1).version("1.0").determinism(FETTLE_ISA).reference("Zhang et al. 2024, ICLR (RIA), section 3");
    return with_calibrated_pruning(d).param("exponent", &Params::exponent, "of the input norms; 0 ignores the inputs",
                                            fettle::in_range(0, 4));
  }

  static Status validate(const Params& p) { return check_prune_params(p); }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    return estimate_calibrated_pruning(p, in, e, 0, 0);  // four vectors of norms, one comparison a weight
  }

  static Status run(const Params& p, fettle::Context& context) {
    ScorePruner pruner;
    const auto prune = [&](const PruneTarget& target, const ColumnNorms& norms) {
      return pruner.prune(target, [&](MutMatrix w) { ria::score(w, norms.l2(), p.exponent); });
    };
    FETTLE_TRY(prune_blocks<ColumnNorms>(p, context, prune));
    pruner.report(context);
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-ria", "0.1.0", "Fettle", "Apache-2.0", PruneRia)
