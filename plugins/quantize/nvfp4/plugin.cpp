// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/quantize_floats.h"

namespace {

using fettle::Status;
using namespace fettle::kit;

class QuantizeNvfp4 {
 public:
  struct Params : QuantizeFloatsParams {
    std::string scales = "four_over_six";
    std::string activations = "none";
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d(
        "quantize.nvfp4", "Round every weight to a 4-bit float (E2M1); 16 share a scale in E4M3, all a further one.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Cook et al. 2025, arXiv:2512.02010 (four over six)")
        .param(
            "scales", &Params::scales,
            "which number becomes the scale of 16 weights: plain, the largest of them / 6; four_over_six, that or the "
            "largest / 4, whichever errs less; sweep, of all 126 the one that errs least",
            fettle::one_of({"plain", "four_over_six", "sweep"}))
        .param("activations", &Params::activations,
               "how clients round what the matrices read: none, not at all (W4A16); static, to NVFP4 with the tensor's "
               "scale from calibration (W4A4)",
               fettle::one_of({"none", "static"}));
    with_float_formats(d);
    return with_quantized_floats(d);
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    return estimate_quantize_floats(p, recipe_of(p), in, e);
  }

  static Status run(const Params& p, fettle::Context& context) { return quantize_floats(p, recipe_of(p), context); }

 private:
  static FloatRecipe recipe_of(const Params& p) {
    FloatRecipe recipe;
    recipe.scheme.kind = FloatKind::nvfp4;
    recipe.scheme.block_scale = *find_block_scale(p.scales);
    recipe.scheme.reciprocal = p.format == "modelopt";
    recipe.activations = activations_named(p.activations);
    return recipe;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-nvfp4", "0.1.0", "Fettle", "Apache-2.0", QuantizeNvfp4)
