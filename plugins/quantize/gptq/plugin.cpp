// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/gram.h"
#include "fettle_kit/calibrate/quantize_blocks.h"
#include "fettle_kit/compress/quantization.h"

#include "gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <optional>
#include <utility>

namespace {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

struct Params : IntegerParams, CalibratedQuantizeParams {
  Params() { format = "gptq"; }
  bool act_order = false;
  bool static_groups = false;
  double damping = 0.01;
  bool keep_zeros = true;
  std::optional<double> prune_share;
  std::optional<std::string> prune_pattern;

  /// What goes in the same sweep, if anything.
  Result<std::optional<SparsityTarget>> pruning() const {
    SparsityTarget target;
    if (prune_pattern) {
      FETTLE_ASSIGN(target.pattern, parse_n_of_m(*prune_pattern));
    } else if (prune_share) {
      target.share = *prune_share;
    } else {
      return std::optional<SparsityTarget>();
    }
    return std::optional(target);
  }
};

/// Which weights of a matrix must stay zero, if any.
std::optional<Mask> zeros_to_keep(ConstMatrix w, const std::map<std::string, Mask>& masks, const std::string& name,
                                  bool exact_zeros) {
  const auto given = masks.find(name);
  if (given == masks.end() && !exact_zeros) return std::nullopt;
  Mask mask = given != masks.end() ? given->second : Mask(w.rows, w.cols);
  if (exact_zeros)
    for (std::int64_t i = 0; i < w.rows; ++i)
      for (std::int64_t j = 0; j < w.cols; ++j)
        if (w(i, j) == 0) mask.prune(i, j);
  return mask;
}

/// Quantizes the targets as the walk asks for them, and writes them.
class Quantizer {
 public:
  Quantizer(const Params& p, fettle::Context& context, const std::vector<IntegerTarget>& targets, IntegerWriter& writer,
            const std::map<std::string, Mask>& masks, const std::optional<SparsityTarget>& prune)
      : p_(p), context_(context), writer_(writer), masks_(masks), prune_(prune) {
    for (const IntegerTarget& t : targets) targets_.emplace(t.tensor->name, &t);
  }

  Result<std::vector<float>> operator()(const TensorView& t, Site site, const Gram& gram) {
    FETTLE_TRY(enough_.check(t, gram.rows()));
    FETTLE_ASSIGN(const gptq::Inputs* const inputs, inputs_of(t, site, gram));
    const IntegerTarget& target = *targets_.at(t.name);
    FETTLE_ASSIGN(std::vector<float> weights, finite_weights(t));
    const MutMatrix w(weights.data(), t.rows(), t.cols());
    const std::optional<Mask> mask = zeros_to_keep(w, masks_, t.name, p_.keep_zeros);
    gptq::Options options;
    options.scheme = target.scheme;
    options.static_groups = p_.static_groups;
    options.mask = mask ? &*mask : nullptr;
    options.prune = prune_;
    const gptq::Quantized result = gptq::quantize(w, *inputs, options);
    FETTLE_TRY(writer_.put(target, result.coded));
    dead_columns_ += result.report.dead_columns;
    pruned_ += result.pruned;
    weights_ += t.elements();
    context_.point("sweep_error", static_cast<double>(done_++), result.report.error);
    return weights;
  }

  void report() const {
    context_.metric("dead_columns", static_cast<double>(dead_columns_));
    context_.metric("most_damping", most_damping_);
    if (prune_) context_.metric("sparsity", static_cast<double>(pruned_) / static_cast<double>(weights_));
  }

 private:
  /// q, k and v share what they read, and so do gate and up: factored once.
  Result<const gptq::Inputs*> inputs_of(const TensorView& t, Site site, const Gram& gram) {
    const std::int64_t layer = layer_of(t.name);
    if (inputs_ && layer == layer_ && site == site_) return &*inputs_;
    inputs_.reset();
    auto inputs = gptq::prepare(gram.sum(), p_.act_order, p_.damping, [&](double damping, const std::string& why) {
      context_.warn(fmt::format("inputs of '{}': {}; trying again with damping {}", t.name, why, damping));
    });
    if (!inputs)
      return Status(Code::invalid_argument,
                    fmt::format("inputs of '{}': {}, even with damping above 0.1; check the model and its calibration "
                                "text for NaN, or put the tensor into 'ignore'",
                                t.name, inputs.error().message()));
    inputs_ = *std::move(inputs);
    layer_ = layer;
    site_ = site;
    most_damping_ = std::max(most_damping_, inputs_->damping);
    return &*inputs_;
  }

  const Params& p_;
  fettle::Context& context_;
  IntegerWriter& writer_;
  const std::map<std::string, Mask>& masks_;
  std::optional<SparsityTarget> prune_;
  std::int64_t pruned_ = 0, weights_ = 0;
  std::map<std::string, const IntegerTarget*> targets_;
  std::optional<gptq::Inputs> inputs_;
  std::int64_t layer_ = -1;
  Site site_ = Site::attention_in;
  EnoughTokens enough_{context_};
  int done_ = 0;
  std::int64_t dead_columns_ = 0;
  double most_damping_ = 0;
};

class QuantizeGptq {
 public:
  using Params = ::Params;

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d(
        "quantize.gptq", "Round weights to an integer grid and let those still to come make up for the error.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Frantar et al. 2022, arXiv:2210.17323")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .input("calibration", "tokens", "text like what the model will read; 128 sequences are plenty",
               "tokenizer=@model")
        .optional_input("mask", "mask", "weights that must stay zero, beside those that are")
        .output("model", "model", "a quantized checkpoint for GPTQ clients, or for transformers and vLLM");
    with_integer_params(d)
        .param("act_order", &Params::act_order, "round columns with much input first")
        .param("static_groups", &Params::static_groups,
               "fit all grids to the original weights, so that groups stay neighbours under act_order")
        .param(
            "damping", &Params::damping,
            "added to the diagonal of the inputs' Gram matrix, as a share of its mean; ten times as much if it is not "
            "enough, up to 1",
            fettle::in_range(1e-6, 1))
        .param("keep_zeros", &Params::keep_zeros, "weights that are exactly zero stay so: sparse models stay sparse")
        .param("prune_share", &Params::prune_share,
               "zero this share of the weights in the same sweep, those that cost least (SparseGPT)",
               fettle::in_range(0, 1))
        .param("prune_pattern", &Params::prune_pattern,
               "or N of every M weights along the input dimension, for example 2:4");
    return with_calibrated_quantization(d);
  }

  static Status validate(const Params& p) {
    FETTLE_TRY(check_integer_params(p));
    if (index_needed(p) && p.format == "compressed-tensors")
      return {Code::invalid_argument,
              "compressed-tensors 0.20 no longer loads groups in another order than the columns; use static_groups: "
              "true, or format: gptq",
              "act_order"};
    if (index_needed(p) && p.format == "awq")
      return {
          Code::invalid_argument,
          "AWQ files cannot tell groups in another order than the columns; use static_groups: true, or format: gptq",
          "act_order"};
    if (p.prune_share && p.prune_pattern)
      return {Code::invalid_argument, "'prune_share' and 'prune_pattern' both say how much goes; give one",
              "prune_pattern"};
    if (!p.prune_pattern) return {};
    auto pattern = parse_n_of_m(*p.prune_pattern);
    if (!pattern) return {Code::invalid_argument, pattern.error().message(), "prune_pattern"};
    if (p.act_order)
      return {Code::invalid_argument,
              "act_order scatters the neighbours that a pattern is about; give prune_share, or leave act_order out",
              "act_order"};
    if (p.sharing == "group" && p.group_size % pattern->m != 0)
      return {
          Code::invalid_argument,
          fmt::format("groups of {} weights share a scale, which groups of {} do not divide", p.group_size, pattern->m),
          "prune_pattern"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const double hidden = in.at("model").number("hidden"), ffn = in.at("model").number("ffn");
    const double widest = std::max(hidden, ffn);
    // Four Gram matrices of a block; of the widest one copy with damping, its factor, and one in the order of columns.
    const double statistics = 8 * (3 * hidden * hidden + ffn * ffn);
    FETTLE_TRY(estimate_quantize_walk(p, in, e, statistics, 3 * widest, (p.act_order ? 24 : 16) * widest * widest));
    e.attribute("model", "weights", weights_attribute(p));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto targets, integer_targets(model, p));
    std::map<std::string, Mask> masks;
    if (const auto port = context.inputs.find("mask")) {
      FETTLE_ASSIGN(masks, read_masks(port->path()));
    }
    std::vector<const TensorView*> tensors;
    for (const IntegerTarget& t : targets) {
      tensors.push_back(t.tensor);
      const auto mask = masks.find(t.tensor->name);
      if (mask != masks.end() && (mask->second.rows() != t.tensor->rows() || mask->second.cols() != t.tensor->cols()))
        return {
            Code::invalid_argument,
            fmt::format("the mask of '{}' is for a matrix [{}, {}], but it is [{}, {}]; was it made for this model?",
                        t.tensor->name, mask->second.rows(), mask->second.cols(), t.tensor->rows(), t.tensor->cols()),
            "mask"};
    }
    FETTLE_ASSIGN(const auto prune, p.pruning());
    for (const IntegerTarget& t : targets)
      if (prune && prune->pattern && t.tensor->cols() % prune->pattern->m != 0)
        return {Code::invalid_argument,
                fmt::format("tensor '{}' has rows of {} weights, which groups of {} do not divide; put it into "
                            "'ignore' or choose another pattern",
                            t.tensor->name, t.tensor->cols(), prune->pattern->m),
                "prune_pattern"};
    warn_of_unlike(model, targets, context);
    IntegerRecord record;
    record.act_order = index_needed(p) || (p.act_order && p.format == "compressed-tensors");
    record.static_groups = p.static_groups;
    record.true_sequential = p.true_sequential;
    record.damping = p.damping;
    FETTLE_ASSIGN(IntegerWriter writer, IntegerWriter::create(context.output("model"), model, targets, p, record));
    Quantizer quantizer(p, context, targets, writer, masks, prune);
    FETTLE_TRY(quantize_blocks<Gram>(model, tensors, p, context, std::ref(quantizer)));
    FETTLE_TRY(writer.finish());
    quantizer.report();
    return {};
  }

 private:
  /// Whether groups are not those of neighbouring columns.
  static bool index_needed(const Params& p) { return p.act_order && !p.static_groups && p.sharing == "group"; }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-gptq", "0.1.0", "Fettle", "Apache-2.0", QuantizeGptq)
