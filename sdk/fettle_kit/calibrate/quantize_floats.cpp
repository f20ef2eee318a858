// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/quantize_floats.h"

#include "fettle_kit/calibrate/gram.h"
#include "fettle_kit/compress/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

namespace fettle::kit {
namespace {

/// What the sweep makes of a weight: the nearest value by the scale that its place has.
class NearestValue final : public SweepRule {
 public:
  explicit NearestValue(const FloatMatrix& matrix) : rounding_(matrix) {}
  void begin_block(std::int64_t, ConstMatrix, std::span<const double>) override {}
  float value(std::int64_t row, std::int64_t column, std::span<const float> rest, std::span<const double>) override {
    return rounding_.nearest(row, column, rest[0]);
  }
  std::int64_t run() const override { return 8; }

 private:
  FloatRounding rounding_;
};

/// The largest magnitude seen so far; NaN once there was one.
void grow(float& magnitude, ConstMatrix x) {
  const float further = largest_magnitude({x.data, static_cast<std::size_t>(x.rows * x.cols)});
  magnitude = std::isnan(further) ? further : std::max(magnitude, further);
}

/// What calibration shows of the inputs of a site.
struct Seen {
  float magnitude = 0;
  std::optional<Gram> gram;  ///< for error feedback
};

/// Quantizes the targets as the walk asks for them, and writes them.
class Quantizer {
 public:
  Quantizer(const QuantizeFloatsParams& p, const FloatRecipe& recipe, Context& context,
            const std::vector<FloatTarget>& targets, FloatWriter& writer)
      : p_(p), recipe_(recipe), context_(context), writer_(writer), errors_(context), enough_(context) {
    for (const FloatTarget& t : targets) targets_.emplace(t.tensor->name, &t);
  }

  void begin_site(Site site) {
    seen_[index_of(site)] = {};
    if (site == Site::attention_in) keys_ = values_ = 0;
    factor_.reset();
  }

  void observe(Site site, ConstMatrix x) {
    Seen& seen = seen_[index_of(site)];
    grow(seen.magnitude, x);
    if (!p_.error_feedback) return;
    if (!seen.gram) seen.gram.emplace(x.cols);
    seen.gram->add(x);
  }

  void observe_cache(ConstMatrix keys, ConstMatrix values) {
    grow(keys_, keys);
    grow(values_, values);
  }

  Result<std::vector<float>> quantize(const TensorView& t, Site site) {
    const Seen& seen = seen_[index_of(site)];
    if (!std::isfinite(seen.magnitude))
      return Status(Code::invalid_argument,
                    fmt::format("the inputs of '{}' reach NaN or infinity on the calibration text; check the model, or "
                                "put the tensor into 'ignore'",
                                t.name),
                    "calibration");
    const bool makes_keys = t.name.ends_with(".k_proj.weight"), makes_values = t.name.ends_with(".v_proj.weight");
    const float cached = makes_keys ? keys_ : makes_values ? values_ : 0;
    if (!std::isfinite(cached))
      return Status(Code::invalid_argument,
                    fmt::format("the {} that '{}' makes reach NaN or infinity on the calibration text; check the "
                                "model, or use kv_cache: none",
                                makes_keys ? "keys" : "values", t.name),
                    "calibration");
    FETTLE_ASSIGN(FloatMatrix matrix, round_to_floats(t, recipe_.scheme, targets_.at(t.name)->magnitude));
    errors_.add(matrix);
    std::vector<float> values(static_cast<std::size_t>(t.elements()));
    const MutMatrix w(values.data(), t.rows(), t.cols());
    if (p_.error_feedback) {
      FETTLE_TRY(enough_.check(t, seen.gram->rows()));
      FETTLE_ASSIGN(const SweepFactor* const factor, factor_of(t, site, seen.gram->sum()));
      info(t.dtype).to_f32(t.bytes.data(), values.data(), values.size());
      NearestValue rule(matrix);
      const SweepReport report = sweep_columns(w, *factor, rule);
      encode_again(matrix, w);
      context_.point("sweep_error", swept_++, report.error);
    }
    matrix.view().read(0, w);
    FETTLE_TRY(writer_.put(t, matrix, seen.magnitude, cached));
    return values;
  }

  void report() const { errors_.report(); }

 private:
  /// q, k and v share what they read, and so do gate and up: factored once.
  Result<const SweepFactor*> factor_of(const TensorView& t, Site site, const Square& gram) {
    if (factor_ && site == factored_) return &*factor_;
    factored_ = site;
    for (double damping = p_.damping;; damping *= 10) {
      auto factor = sweep_factor(gram, damping);
      if (factor) {
        factor_ = *std::move(factor);
        return &*factor_;
      }
      if (damping * 10 > 1)
        return Status(
            Code::invalid_argument,
            fmt::format("inputs of '{}': {}, even with damping above 0.1; check the model and its calibration "
                        "text for NaN, or put the tensor into 'ignore'",
                        t.name, factor.error().message()));
      context_.warn(fmt::format("inputs of '{}': {}; trying again with damping {}", t.name, factor.error().message(),
                                damping * 10));
    }
  }

  const QuantizeFloatsParams& p_;
  const FloatRecipe& recipe_;
  Context& context_;
  FloatWriter& writer_;
  std::map<std::string, const FloatTarget*> targets_;
  WeightErrors errors_;
  EnoughTokens enough_;
  std::array<Seen, site_count> seen_;
  float keys_ = 0, values_ = 0;  // largest magnitudes of the block
  std::optional<SweepFactor> factor_;
  Site factored_ = Site::attention_in;
  int swept_ = 0;
};

Status quantize_calibrated(const Checkpoint& model, const std::vector<FloatTarget>& targets,
                           const QuantizeFloatsParams& p, const FloatRecipe& recipe, Context& context,
                           FloatWriter& writer) {
  Quantizer quantizer(p, recipe, context, targets, writer);
  std::vector<const TensorView*> tensors;
  for (const FloatTarget& t : targets) tensors.push_back(t.tensor);
  BlockQuantization technique;
  technique.begin_site = [&](Site site) { quantizer.begin_site(site); };
  technique.observe = [&](Site site, ConstMatrix x) { quantizer.observe(site, x); };
  if (p.kv_cache == "fp8")
    technique.observe_cache = [&](ConstMatrix keys, ConstMatrix values) { quantizer.observe_cache(keys, values); };
  technique.quantize = [&](const TensorView& t, Site site) { return quantizer.quantize(t, site); };
  FETTLE_TRY(quantize_blocks(model, tensors, p, context, technique));
  quantizer.report();
  return {};
}

Status quantize_by_weight(const Checkpoint& model, const std::vector<FloatTarget>& targets, const FloatRecipe& recipe,
                          Context& context, FloatWriter& writer) {
  WeightErrors errors(context);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (context.cancelled()) return cancelled_status();
    const TensorView& t = *targets[i].tensor;
    FETTLE_ASSIGN(const FloatMatrix matrix, round_to_floats(t, recipe.scheme, targets[i].magnitude));
    FETTLE_TRY(writer.put(t, matrix));
    model.drop(t);
    errors.add(matrix);
    context.progress("matrices", i + 1, targets.size());
  }
  errors.report();
  return {};
}

Status check_calibration(const QuantizeFloatsParams& p, const FloatRecipe& recipe, const Inputs& inputs) {
  const char* const reason = p.error_feedback                           ? "error_feedback"
                             : recipe.activations == Activations::fixed ? "activations: static"
                             : p.kv_cache == "fp8"                      ? "kv_cache: fp8"
                                                                        : nullptr;
  if (reason == nullptr || inputs.find("calibration")) return {};
  return {Code::invalid_argument,
          fmt::format("{} needs calibration text: connect the port 'calibration' to a data.tokens step", reason),
          "calibration"};
}

}  // namespace

Activations activations_named(std::string_view name) {
  return name == "none" ? Activations::none : name == "dynamic" ? Activations::dynamic : Activations::fixed;
}

Status quantize_floats(const QuantizeFloatsParams& p, const FloatRecipe& recipe, Context& context) {
  FETTLE_TRY(check_calibration(p, recipe, context.inputs));
  const bool calibrated = context.inputs.find("calibration").has_value();
  FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
  FETTLE_ASSIGN(const auto targets, float_targets(model, p, recipe));
  if (p.kv_cache == "fp8") FETTLE_TRY(check_cache_targets(model, targets));
  warn_of_unlike(model, targets, context);
  FETTLE_ASSIGN(FloatWriter writer, FloatWriter::create(context.output("model"), model, targets, p, recipe));
  FETTLE_TRY(calibrated ? quantize_calibrated(model, targets, p, recipe, context, writer)
                        : quantize_by_weight(model, targets, recipe, context, writer));
  return writer.finish();
}

Status estimate_quantize_floats(const QuantizeFloatsParams& p, const FloatRecipe& recipe, const Inputs& in,
                                Estimate& e) {
  FETTLE_TRY(check_calibration(p, recipe, in));
  const Input model = in.at("model");
  const double hidden = model.number("hidden"), ffn = model.number("ffn");
  if (in.find("calibration")) {
    // Four Gram matrices of a block; the factor and one f32 product of the widest.
    const double widest = std::max(hidden, ffn);
    const double statistics =
        p.error_feedback ? 8 * (3 * hidden * hidden + ffn * ffn) + widest * widest * (8 + 8 + 4) : 0;
    const auto length = static_cast<std::int64_t>(std::max(1.0, in.at("calibration").number("length")));
    const double cache =
        p.kv_cache == "fp8" ? 2 * sizeof(float) * hidden * static_cast<double>(BlockWalk::portion_tokens(length)) : 0;
    FETTLE_TRY(estimate_quantize_walk(p, in, e, statistics + cache, p.error_feedback ? 3 * widest : 0));
  } else {
    // The codes of the largest matrix, and their copy on the way to the file.
    e.memory(64e6 + 2 * std::max(ffn, model.number("vocab")) * hidden).disk(model.number("bytes")).like("model", model);
  }
  e.attribute("model", "weights", weights_attribute(p, recipe));
  return {};
}

}  // namespace fettle::kit
