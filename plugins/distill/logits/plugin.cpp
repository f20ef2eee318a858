// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/distill/distillation.h"

namespace {

using fettle::Status;
using namespace fettle::kit;

class DistillLogits {
 public:
  using Params = DistillParams;

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("distill.logits", "Train a model to predict what a larger one predicts.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)  // the C library's cosine
        .reference("Hinton et al. 2015, arXiv:1503.02531, section 2; Muralidharan et al. 2024, arXiv:2407.14679");
    return with_distillation(d);
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    FETTLE_TRY(check_distillation(p, in));
    estimate_distillation(p, in, e);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const auto distillation, Distillation::open(p, context));
    return distillation->run("distill.logits");
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-distill-logits", "0.1.0", "Fettle", "Apache-2.0", DistillLogits)
