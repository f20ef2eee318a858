// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/quantize_floats.h"

namespace {

using fettle::Status;
using namespace fettle::kit;

class QuantizeMxfp4 {
 public:
  struct Params : QuantizeFloatsParams {
    std::string scales = "nearest";
    std::string activations = "none";
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d(
        "quantize.mxfp4", "Round every weight to a 4-bit float (E2M1); 32 share a power of two as their scale.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("OCP Microscaling Formats (MX) Specification 1.0")
        .param(
            "scales", &Params::scales,
            "which power of two becomes the scale of 32 weights, for m the largest of them: floor, 2^(floor(log2 m) - "
            "2) as in the specification; nearest, twice that from 1.75 x 2^floor(log2 m) on, as llm-compressor does; "
            "search, whichever of the two errs less",
            fettle::one_of({"floor", "nearest", "search"}))
        .param("activations", &Params::activations,
               "how clients round what the matrices read: none, not at all (W4A16); dynamic, to MXFP4 (W4A4)",
               fettle::one_of({"none", "dynamic"}));
    return with_quantized_floats(d);
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    return estimate_quantize_floats(p, recipe_of(p), in, e);
  }

  static Status run(const Params& p, fettle::Context& context) { return quantize_floats(p, recipe_of(p), context); }

 private:
  static FloatRecipe recipe_of(const Params& p) {
    FloatRecipe recipe;
    recipe.scheme.kind = FloatKind::mxfp4;
    recipe.scheme.power_scale = *find_power_scale(p.scales);
    recipe.activations = activations_named(p.activations);
    return recipe;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-mxfp4", "0.1.0", "Fettle", "Apache-2.0", QuantizeMxfp4)
