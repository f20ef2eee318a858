// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/float_matrix.h"
#include "fettle_kit/compress/quantization.h"

#include <map>
#include <string>
#include <vector>

namespace fettle::kit {

/// Parameters of the techniques that quantize to small floats.
struct FloatParams : QuantizeParams {
  std::string format = "compressed-tensors";
  std::string kv_cache = "none";  ///< or "fp8": scales for a cache of keys and values in E4M3
};

/// Declares `format`, for types that ModelOpt has too.
template <class Params>
Description<Params>& with_float_formats(Description<Params>& description) {
  return description.param(
      "format", static_cast<std::string Params::*>(&FloatParams::format),
      "layout of the files: compressed-tensors (vLLM, transformers, SGLang), or NVIDIA ModelOpt's (TensorRT-LLM, vLLM, "
      "SGLang)",
      one_of({"compressed-tensors", "modelopt"}));
}

/// What becomes of the weights, and what clients do with the inputs.
struct FloatRecipe {
  FloatScheme scheme;
  Activations activations = Activations::none;
};

struct FloatTarget {
  const TensorView* tensor = nullptr;
  /// max |w| of all tensors that share the tensor's scale: q, k and v, and gate and up, because vLLM has one scale for
  /// them. 0 if the scheme has no scale of tensors.
  float magnitude = 0;
};

/// invalid_argument for combinations that the clients of the format do not know.
Status check_float_recipe(const FloatParams& params, const FloatRecipe& recipe);

/// The matrices to quantize. Everything about shapes and clients that could fail later is checked here; reads all of
/// them once if they have a scale of their tensor.
Result<std::vector<FloatTarget>> float_targets(const Checkpoint& model, const FloatParams& params,
                                               const FloatRecipe& recipe);

/// invalid_argument if a block's k_proj or v_proj is not among the targets: scales of a cache stand beside them.
Status check_cache_targets(const Checkpoint& model, const std::vector<FloatTarget>& targets);

/// Warns of matrices that vLLM cannot load beside each other.
void warn_of_unlike(const Checkpoint& model, const std::vector<FloatTarget>& targets, const Context& context);

/// The attribute `weights` of the result.
std::string weights_attribute(const FloatParams& params, const FloatRecipe& recipe);

/// Writes the checkpoint in the chosen format. One thread at a time.
class FloatWriter {
 public:
  static Result<FloatWriter> create(const std::string& folder, const Checkpoint& model,
                                    const std::vector<FloatTarget>& targets, const FloatParams& params,
                                    const FloatRecipe& recipe);
  /// `input_magnitude`: the largest of the linear's inputs in calibration; looked at for fixed activations.
  /// `cache_magnitude`: the largest of the keys (for k_proj) or values (v_proj); looked at for kv_cache: fp8.
  Status put(const TensorView& tensor, const FloatMatrix& matrix, float input_magnitude = 0, float cache_magnitude = 0);
  Status finish() { return writer_.finish(); }

 private:
  FloatWriter(QuantizedWriter writer, bool modelopt, bool cache_scales, Activations activations)
      : writer_(std::move(writer)), modelopt_(modelopt), cache_scales_(cache_scales), activations_(activations) {}
  QuantizedWriter writer_;
  bool modelopt_, cache_scales_;
  Activations activations_;
};

/// Relative squared errors of the weights, matrix by matrix, for metrics and series.
class WeightErrors {
 public:
  explicit WeightErrors(const Context& context) : context_(context) {}
  void add(const FloatMatrix& matrix);
  /// The metrics matrices, weight_error (the mean) and worst_weight_error.
  void report() const;

 private:
  const Context& context_;
  int count_ = 0;
  double sum_ = 0, worst_ = 0;
};

}  // namespace fettle::kit
