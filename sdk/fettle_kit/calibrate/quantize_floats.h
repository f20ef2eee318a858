// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/calibrate/quantize_blocks.h"
#include "fettle_kit/compress/float_quantization.h"

namespace fettle::kit {

/// Parameters of the techniques that quantize to small floats, with or without calibration.
struct QuantizeFloatsParams : FloatParams, CalibratedQuantizeParams {
  bool error_feedback = false;
  double damping = 0.01;
};

/// Declares the ports, and the parameters beside those of the grid and `activations`.
template <class Params>
Description<Params>& with_quantized_floats(Description<Params>& d) {
  const auto own = []<class T>(T QuantizeFloatsParams::*member) { return static_cast<T Params::*>(member); };
  d.input("model", "model", "a Hugging Face checkpoint with plain weights", "layout=hf; weights=f32|f16|bf16|mixed")
      .optional_input("calibration", "tokens",
                      "text like what the model will read; for activations: static, kv_cache: fp8 and "
                      "error_feedback, and to measure what each matrix loses",
                      "tokenizer=@model")
      .output("model", "model", "a quantized checkpoint");
  with_quantize_params(d)
      .param("kv_cache", static_cast<std::string Params::*>(&FloatParams::kv_cache),
             "fp8: write for every block the scales with which clients keep keys and values in E4M3, from calibration; "
             "none: clients keep them as they are",
             one_of({"none", "fp8"}))
      .param("error_feedback", own(&QuantizeFloatsParams::error_feedback),
             "round column after column and let those still to come make up for the error (GPTQ); scales stay as "
             "fitted to the original weights")
      .param(
          "damping", own(&QuantizeFloatsParams::damping),
          "of error_feedback: added to the diagonal of the inputs' Gram matrix, as a share of its mean; ten times as "
          "much if it is not enough, up to 1",
          in_range(1e-6, 1));
  return with_calibrated_quantization(d);
}

/// "none", "dynamic" or "static".
Activations activations_named(std::string_view name);

/// Quantizes the targets and writes the checkpoint to the port "model". Without calibration, matrix by matrix in the
/// order of the file; with it, along the walk of quantize_blocks(). Reports the squared error of each matrix's weights
/// as rounded to nearest (series weight_error; metrics weight_error and worst_weight_error). Errors: those of
/// float_targets() and quantize_blocks(); invalid_argument if calibration is needed and not there, too short for
/// error_feedback, or shows a NaN; kv_cache: fp8 without all of k_proj and v_proj.
Status quantize_floats(const QuantizeFloatsParams& params, const FloatRecipe& recipe, Context& context);

/// Memory, disk, flops and attributes of such a step.
Status estimate_quantize_floats(const QuantizeFloatsParams& params, const FloatRecipe& recipe, const Inputs& inputs,
                                Estimate& estimate);

}  // namespace fettle::kit
