// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/quantize_floats.h"

namespace {

using fettle::Status;
using namespace fettle::kit;

class QuantizeFp8 {
 public:
  struct Params : QuantizeFloatsParams {
    std::string sharing = "channel";
    std::string activations = "dynamic";
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("quantize.fp8", "Round every weight to an 8-bit float (E4M3).");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Micikevicius et al. 2022, arXiv:2209.05433")
        .param("sharing", &Params::sharing,
               "what shares a scale: a row (an output channel), the matrix (and those that vLLM runs as one with it), "
               "or 128 x 128 weights",
               fettle::one_of({"channel", "tensor", "block"}))
        .param("activations", &Params::activations,
               "how clients round what the matrices read: dynamic, by scales of each token (of its 128 columns for "
               "sharing: block); static, by one scale from calibration; none, not at all",
               fettle::one_of({"dynamic", "static", "none"}));
    with_float_formats(d);
    return with_quantized_floats(d);
  }

  static Status validate(const Params& p) { return check_float_recipe(p, recipe_of(p, DType::f32)); }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    return estimate_quantize_floats(p, recipe_of(p, DType::f32), in, e);
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    return quantize_floats(p, recipe_of(p, p.format == "modelopt" ? DType::f32 : weight_type(model)), context);
  }

 private:
  static FloatRecipe recipe_of(const Params& p, DType scale_type) {
    FloatRecipe recipe;
    recipe.scheme.kind = FloatKind::fp8;
    recipe.scheme.sharing = p.sharing == "channel"  ? Fp8Sharing::channel
                            : p.sharing == "tensor" ? Fp8Sharing::tensor
                                                    : Fp8Sharing::block;
    recipe.scheme.scale_type = scale_type;
    recipe.activations = activations_named(p.activations);
    return recipe;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-fp8", "0.1.0", "Fettle", "Apache-2.0", QuantizeFp8)
