// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/float_quantization.h"

#include "fettle_kit/compress/modelopt.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

namespace fettle::kit {
namespace {

std::vector<std::string> names_of(const std::vector<FloatTarget>& targets) {
  std::vector<std::string> names;
  for (const FloatTarget& t : targets) names.push_back(t.tensor->name);
  return names;
}

Status check_shape(const TensorView& t, const FloatScheme& s) {
  const auto refuse = [&](const std::string& what) {
    return Status(
        Code::invalid_argument,
        fmt::format("tensor '{}' has shape {}, but {} or put it into 'ignore'", t.name, shape_text(t.shape), what),
        "targets");
  };
  if (s.packed() && t.cols() % s.block() != 0)
    return refuse(fmt::format("{} has blocks of {} weights of a row; use quantize.fp8 for it,",
                              s.kind == FloatKind::nvfp4 ? "NVFP4" : "MXFP4", s.block()));
  const bool square = !s.packed() && s.sharing == Fp8Sharing::block;
  if (square && (t.rows() % fp8_block != 0 || t.cols() % fp8_block != 0))
    return refuse(fmt::format("vLLM wants multiples of {} for sharing: block; use sharing: channel,", fp8_block));
  return {};
}

constexpr std::string_view key_weight = ".k_proj.weight", value_weight = ".v_proj.weight";

bool fills_cache(std::string_view weight) { return weight.ends_with(key_weight) || weight.ends_with(value_weight); }

/// The scale of what this linear puts into the cache: compressed-tensors has it beside the projections, ModelOpt with
/// them.
TensorSpec cache_scale_spec(const std::string& weight, bool modelopt) {
  const std::string module = module_of(weight);
  const char* const scale = weight.ends_with(key_weight) ? "k_scale" : "v_scale";
  if (modelopt) return {fmt::format("{}.{}", module, scale), DType::f32, {}};
  return {fmt::format("{}.{}", module.substr(0, module.rfind('.')), scale), DType::f32, {1}};
}

Json config_of(const std::vector<FloatTarget>& targets, std::vector<std::string> dense, const FloatRecipe& recipe,
               bool cache_scales) {
  CompressedGroup group;
  group.format = float_format(recipe.scheme.kind).name;
  group.weights = compressed_float_args(recipe.scheme);
  group.input_activations = compressed_input_args(recipe.scheme, recipe.activations);
  for (const FloatTarget& t : targets) group.modules.push_back(module_of(t.tensor->name));
  Json cache = nullptr;
  if (cache_scales) {
    FloatScheme scheme;
    scheme.sharing = Fp8Sharing::tensor;
    cache = compressed_float_args(scheme);
  }
  return compressed_tensors_config({group}, std::move(dense), cache);
}

}  // namespace

Status check_float_recipe(const FloatParams& params, const FloatRecipe& recipe) {
  const FloatScheme& s = recipe.scheme;
  if (params.format == "modelopt" && modelopt_algorithm(s, recipe.activations).empty()) {
    const bool tensor = s.sharing == Fp8Sharing::tensor, channel = s.sharing == Fp8Sharing::channel;
    return {Code::invalid_argument,
            fmt::format("ModelOpt 0.47 has sharing: {0} only with activations: {1}; use that, or format: "
                        "compressed-tensors",
                        tensor    ? "tensor"
                        : channel ? "channel"
                                  : "block",
                        tensor    ? "static"
                        : channel ? "dynamic"
                                  : "none"),
            "format"};
  }
  if (s.kind == FloatKind::fp8 && s.sharing == Fp8Sharing::block && recipe.activations == Activations::fixed)
    return {
        Code::invalid_argument,
        "vLLM 0.20 multiplies blocks of 128 x 128 by activations with scales of their own; use activations: dynamic, "
        "or sharing: channel",
        "activations"};
  return {};
}

Result<std::vector<FloatTarget>> float_targets(const Checkpoint& model, const FloatParams& params,
                                               const FloatRecipe& recipe) {
  FETTLE_ASSIGN(const auto tensors, quantization_targets(model, params));
  std::map<std::string, float> magnitudes;
  for (const TensorView* t : tensors) {
    FETTLE_TRY(check_shape(*t, recipe.scheme));
    if (!recipe.scheme.tensor_scale()) continue;
    const float magnitude = largest_magnitude(*t);
    if (!std::isfinite(magnitude)) return not_finite(*t);
    magnitudes[t->name] = magnitude;
  }
  std::vector<FloatTarget> targets;
  for (const TensorView* t : tensors) {
    FloatTarget target{t};
    for (const std::string& name : fused_with(t->name))
      if (const auto found = magnitudes.find(name); found != magnitudes.end())
        target.magnitude = std::max(target.magnitude, found->second);
    targets.push_back(target);
  }
  return targets;
}

Status check_cache_targets(const Checkpoint& model, const std::vector<FloatTarget>& targets) {
  std::set<const TensorView*> quantized;
  for (const FloatTarget& t : targets) quantized.insert(t.tensor);
  for (const TensorView* t : model.tensors())
    if (fills_cache(t->name) && !quantized.contains(t))
      return {Code::invalid_argument,
              fmt::format("kv_cache: fp8 stores its scales with every k_proj and v_proj, but '{}' is not quantized; "
                          "widen 'targets' or narrow 'ignore', or use kv_cache: none",
                          t->name),
              "kv_cache"};
  return {};
}

void warn_of_unlike(const Checkpoint& model, const std::vector<FloatTarget>& targets, const Context& context) {
  std::set<std::string> quantized;
  for (const FloatTarget& t : targets) quantized.insert(t.tensor->name);
  const auto kind = [&](const std::string& name) { return std::string(quantized.contains(name) ? "quantized" : ""); };
  for (const std::string& sentence : unlike_fused(model, kind)) context.warn(sentence);
}

std::string weights_attribute(const FloatParams& params, const FloatRecipe& recipe) {
  if (params.format == "modelopt")
    return fmt::format("modelopt.{}", modelopt_algorithm(recipe.scheme, recipe.activations));
  return fmt::format("{}.{}", params.format, float_format(recipe.scheme.kind).name);
}

Result<FloatWriter> FloatWriter::create(const std::string& folder, const Checkpoint& model,
                                        const std::vector<FloatTarget>& targets, const FloatParams& params,
                                        const FloatRecipe& recipe) {
  const bool modelopt = params.format == "modelopt", cache_scales = params.kv_cache == "fp8";
  const auto specs_of = modelopt ? &modelopt_specs : &compressed_float_specs;
  std::map<std::string, std::vector<TensorSpec>> replaced;
  for (const auto& [t, magnitude] : targets) {
    std::vector<TensorSpec>& specs = replaced[t->name];
    specs = specs_of(module_of(t->name), t->rows(), t->cols(), recipe.scheme, recipe.activations);
    if (cache_scales && fills_cache(t->name)) specs.push_back(cache_scale_spec(t->name, modelopt));
  }
  const std::vector<std::string> dense = dense_linears(model, names_of(targets));
  QuantizedOptions options;
  options.checkpoint.shard_bytes = static_cast<std::uint64_t>(params.shard_size.value);
  if (modelopt) {
    const std::string_view algorithm = modelopt_algorithm(recipe.scheme, recipe.activations);
    options.quantization_config = modelopt_config(algorithm, dense, cache_scales);
    options.files.emplace_back("hf_quant_config.json", modelopt_file(algorithm, dense, cache_scales));
  } else {
    options.quantization_config = config_of(targets, dense, recipe, cache_scales);
  }
  FETTLE_ASSIGN(QuantizedWriter writer, QuantizedWriter::create(folder, model, std::move(replaced), options));
  return FloatWriter(std::move(writer), modelopt, cache_scales, recipe.activations);
}

Status FloatWriter::put(const TensorView& tensor, const FloatMatrix& matrix, float input_magnitude,
                        float cache_magnitude) {
  auto bytes = (modelopt_ ? &modelopt_bytes : &compressed_float_bytes)(matrix, activations_, input_magnitude);
  if (cache_scales_ && fills_cache(tensor.name)) {
    const float scale = fp8_scale(cache_magnitude, DType::f32);
    const auto stored = std::as_bytes(std::span(&scale, 1));
    bytes.emplace_back(stored.begin(), stored.end());
  }
  return writer_.replace(tensor.name, bytes);
}

void WeightErrors::add(const FloatMatrix& matrix) {
  const double error = matrix.relative_error();
  context_.point("weight_error", count_++, error);
  sum_ += error;
  worst_ = std::max(worst_, error);
}

void WeightErrors::report() const {
  context_.metric("matrices", count_);
  context_.metric("weight_error", count_ > 0 ? sum_ / count_ : 0);
  context_.metric("worst_weight_error", worst_);
}

}  // namespace fettle::kit
