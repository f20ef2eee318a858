// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/column_magnitudes.h"
#include "fettle_kit/calibrate/fold_plan.h"
#include "fettle_kit/calibrate/quantize_blocks.h"
#include "fettle_kit/compress/folding.h"
#include "fettle_kit/compress/input_grid.h"
#include "fettle_kit/compress/quantization.h"
#include "fettle_kit/kernels/gemm.h"

#include "smooth.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

namespace {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

struct Params : QuantizeParams, CalibratedQuantizeParams {
  Params() { propagation = "dense"; }
  std::string activations = "dynamic";
  std::string smooth = "all";
  double alpha = 0.5;

  bool fixed_inputs() const { return activations == "static"; }
  bool needs_text() const { return fixed_inputs() || smooth != "none"; }
};

constexpr std::array<Site, site_count> sites = {Site::attention_in, Site::attention_out, Site::mlp_in,
                                                Site::mlp_hidden};
constexpr std::int64_t sampled = 32;  // every so many tokens are kept to measure products on

GridScheme grid_of(const Checkpoint& model) {
  GridScheme scheme;
  scheme.bits = 8;
  scheme.sharing = Sharing::channel;
  scheme.scale_type = weight_type(model);
  return scheme;
}

Json config_of(const Checkpoint& model, const std::vector<const TensorView*>& targets, bool fixed_inputs) {
  CompressedGroup group{
      std::string(int_quantized.name), int_quantized_args(), int_quantized_input_args(fixed_inputs), {}};
  std::vector<std::string> names;
  for (const TensorView* t : targets) {
    group.modules.push_back(module_of(t->name));
    names.push_back(t->name);
  }
  return compressed_tensors_config({group}, dense_linears(model, names));
}

Result<QuantizedWriter> writer_for(const Params& p, const std::string& folder, const Checkpoint& model,
                                   const std::vector<const TensorView*>& targets,
                                   const std::vector<const TensorView*>& changed) {
  std::map<std::string, std::vector<TensorSpec>> replaced;
  for (const TensorView* t : targets)
    replaced[t->name] =
        int_quantized_specs(module_of(t->name), t->rows(), t->cols(), weight_type(model), p.fixed_inputs());
  for (const TensorView* t : changed) replaced[t->name] = {carried_spec(*t, std::nullopt)};
  QuantizedOptions options;
  options.quantization_config = config_of(model, targets, p.fixed_inputs());
  options.checkpoint.shard_bytes = static_cast<std::uint64_t>(p.shard_size.value);
  return QuantizedWriter::create(folder, model, std::move(replaced), options);
}

/// Inputs of a site: how far they reach, and some of them.
struct Seen {
  explicit Seen(std::int64_t width) : magnitudes(width) {}
  void add(ConstMatrix x) {
    magnitudes.add(x);
    for (std::int64_t i = 0; i < x.rows; i += sampled) sample.insert(sample.end(), x.row(i).begin(), x.row(i).end());
  }
  ColumnMagnitudes magnitudes;
  std::vector<float> sample;
};

/// Smooths the block that the walk is at, and quantizes its targets as the walk asks for them.
class Quantizer {
 public:
  Quantizer(const Params& p, fettle::Context& context, const GridScheme& scheme, const FoldPlan& plan,
            QuantizedWriter& writer)
      : p_(p), context_(context), scheme_(scheme), plan_(plan), writer_(writer) {}

  void begin_site(Site site) { seen_[index_of(site)].reset(); }

  void observe(Site site, ConstMatrix x) {
    auto& seen = seen_[index_of(site)];
    if (!seen) seen.emplace(x.cols);
    seen->add(x);
  }

  Status begin_block(const Decoder& model, const BlockWalk& walk) {
    layer_ = walk.layer();
    block_.emplace(model, layer_);
    const FoldableBlock dense = *block_;
    for (const Site site : sites)
      if (smooths(site)) block_->fold(site, scales_of(dense, model.config(), site), plan_.norm_type(layer_, site));
    return plan_.store(*block_, layer_, [&](const TensorView& t, std::span<const float> values) {
      return writer_.replace_values(t, values);
    });
  }

  Result<std::vector<float>> quantize(const TensorView& t, Site site) {
    FETTLE_ASSIGN(const std::vector<float> original, finite_weights(t));
    std::size_t linear = 0;
    while (block_linears[linear].tensor_name(layer_) != t.name) ++linear;
    const ConstMatrix w = std::as_const(*block_).matrix(linear);
    const CodedMatrix coded = round_to_grid(w, scheme_);
    const std::optional<float> input_scale = p_.fixed_inputs() ? std::optional(input_scale_of(site)) : std::nullopt;
    FETTLE_TRY(writer_.replace(t.name, int_quantized_bytes(coded, scheme_.scale_type, input_scale)));
    std::vector<float> values(original.size());
    const MutMatrix read(values.data(), w.rows, w.cols);
    coded.read(0, read);
    report(linear, site, w, read, input_scale.value_or(1));
    block_->unfold(linear, read);
    return values;
  }

  void report() const {
    if (count_ > 0) context_.metric("product_error", error_sum_ / count_);
  }

 private:
  /// Norms take scales by the method; the rows of v and up have scales of their own, so that dividing them is free.
  bool smooths(Site site) const {
    const bool norm = site == Site::attention_in || site == Site::mlp_in;
    return plan_.folds(layer_, site) && (p_.smooth == "all" || (p_.smooth == "norms" && norm));
  }

  std::vector<float> scales_of(const FoldableBlock& dense, const ModelConfig& config, Site site) const {
    std::vector<ConstMatrix> matrices;
    for (std::size_t i = 0; i < block_linears.size(); ++i)
      if (block_linears[i].site == site) matrices.push_back(dense.matrix(i));
    std::vector<float> inputs = seen_[index_of(site)]->magnitudes.abs_max(), weights = smooth::column_max(matrices);
    if (site == Site::attention_out) {
      inputs = largest_of_sharing_heads(inputs, config.heads, config.kv_heads);
      weights = largest_of_sharing_heads(weights, config.heads, config.kv_heads);
    }
    return smooth::scales(inputs, weights, p_.alpha);
  }

  /// One scale for all inputs of a site, from the largest there was.
  float input_scale_of(Site site) const {
    const std::vector<float>&most = seen_[index_of(site)]->magnitudes.abs_max(), &columns = block_->column_scales(site);
    std::vector<float> smoothed(most.size());
    for (std::size_t j = 0; j < most.size(); ++j) smoothed[j] = most[j] / columns[j];
    return fit_steps(smoothed, scheme_).scale;
  }

  /// The error of the product as clients compute it, both sides rounded, on some calibration tokens.
  void report(std::size_t linear, Site site, ConstMatrix w, ConstMatrix rounded, float input_scale) {
    const std::vector<float>&inputs = seen_[index_of(site)]->sample, &columns = block_->column_scales(site);
    std::vector<float> smoothed(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) smoothed[i] = inputs[i] / columns[i % columns.size()];
    const std::int64_t rows = static_cast<std::int64_t>(inputs.size() / columns.size());
    std::vector<float> coarse(smoothed.size());
    InputGrid grid;
    grid.kind = p_.fixed_inputs() ? InputGrid::Kind::int8_fixed : InputGrid::Kind::int8_token;
    grid.scale = input_scale;
    round_inputs(MutMatrix(coarse.data(), rows, w.cols), ConstMatrix(smoothed.data(), rows, w.cols), grid);
    Rows exact(rows, w.rows), product(rows, w.rows);
    matmul_nt(exact, ConstMatrix(smoothed.data(), rows, w.cols), w);
    matmul_nt(product, ConstMatrix(coarse.data(), rows, w.cols), rounded);
    double moved = 0, size = 0;
    const ConstMatrix a = exact, b = product;
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < w.rows; ++j) {
        const double y = static_cast<double>(a(i, j)), d = y - static_cast<double>(b(i, j));
        moved += d * d, size += y * y;
      }
    const double error = size > 0 ? moved / size : 0;
    context_.point(("product_error." + block_linears[linear].short_name()).c_str(), static_cast<double>(layer_), error);
    error_sum_ += error, ++count_;
  }

  const Params& p_;
  fettle::Context& context_;
  const GridScheme& scheme_;
  const FoldPlan& plan_;
  QuantizedWriter& writer_;
  std::array<std::optional<Seen>, site_count> seen_;
  std::optional<FoldableBlock> block_;
  std::int64_t layer_ = -1;
  double error_sum_ = 0;
  int count_ = 0;
};

class QuantizeInt8 {
 public:
  using Params = ::Params;

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("quantize.int8",
                                  "Weights and activations as integers of 8 bits (W8A8), outliers smoothed away.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Xiao et al. 2022, arXiv:2211.10438")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .optional_input("calibration", "tokens",
                        "text like what the model will read; needed unless smooth: none with dynamic activations",
                        "tokenizer=@model")
        .output("model", "model", "a quantized checkpoint for vLLM and transformers");
    with_quantize_params(d)
        .param("activations", &Params::activations,
               "scales of the inputs: dynamic, one a token, or static, one a matrix from calibration",
               fettle::one_of({"dynamic", "static"}))
        .param("smooth", &Params::smooth,
               "where outliers of the inputs move into weights: none, behind norms as in the paper, or behind v and up "
               "too, which costs nothing more",
               fettle::one_of({"all", "norms", "none"}))
        .param("alpha", &Params::alpha, "how much of them moves; 0.5 makes both reach equally far",
               fettle::in_range(0, 1));
    return with_one_pass_quantization(d);
  }

  static Status validate(const Params&) { return {}; }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    const double hidden = model.number("hidden"), ffn = model.number("ffn");
    if (in.find("calibration")) {
      const double tokens = in.at("calibration").number("sequences") * in.at("calibration").number("length");
      // The block in f32 twice; sampled inputs, their copies and products.
      const double statistics = 8 * (4 * hidden * hidden + 3 * hidden * ffn) +
                                tokens / sampled * (3 * hidden + 5 * std::max(hidden, ffn)) * 4;
      FETTLE_TRY(estimate_quantize_walk(p, in, e, statistics, tokens / sampled * 4));
    } else {
      FETTLE_TRY(check_calibration(p, false));
      const double widest = std::max(ffn, model.number("vocab")) * hidden;
      e.memory(64e6 + 8 * widest).disk(model.number("bytes")).like("model", model);
    }
    e.attribute("model", "weights", "compressed-tensors.int-quantized");
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto targets, quantization_targets(model, p));
    const bool calibrated = context.inputs.find("calibration").has_value();
    FETTLE_TRY(check_calibration(p, calibrated));
    std::vector<std::string> names;
    for (const TensorView* t : targets) names.push_back(t->name);
    const auto kind = [&](const std::string& name) {
      return std::find(names.begin(), names.end(), name) != names.end() ? "int8" : "";
    };
    for (const std::string& sentence : unlike_fused(model, kind)) context.warn(sentence);
    return calibrated ? run_calibrated(p, model, targets, context) : run_plain(p, model, targets, context);
  }

 private:
  static Status check_calibration(const Params& p, bool calibrated) {
    if (calibrated || !p.needs_text()) return {};
    return {Code::invalid_argument,
            "smoothing and static activations need text: connect 'calibration', or use smooth: none with activations: "
            "dynamic",
            "calibration"};
  }

  static Status run_plain(const Params& p, const Checkpoint& model, const std::vector<const TensorView*>& targets,
                          fettle::Context& context) {
    const GridScheme scheme = grid_of(model);
    FETTLE_ASSIGN(QuantizedWriter writer, writer_for(p, context.output("model"), model, targets, {}));
    double sum = 0;
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (context.cancelled()) return fettle::cancelled_status();
      const TensorView& t = *targets[i];
      FETTLE_ASSIGN(const std::vector<float> weights, finite_weights(t));
      const ConstMatrix w(weights.data(), t.rows(), t.cols());
      const CodedMatrix coded = round_to_grid(w, scheme);
      FETTLE_TRY(writer.replace(t.name, int_quantized_bytes(coded, scheme.scale_type, std::nullopt)));
      model.drop(t);
      sum += relative_error(w, coded);
      context.progress("matrices", i + 1, targets.size());
    }
    FETTLE_TRY(writer.finish());
    context.metric("matrices", static_cast<double>(targets.size()));
    context.metric("weight_error", sum / static_cast<double>(targets.size()));
    return {};
  }

  static Status run_calibrated(const Params& p, const Checkpoint& model, const std::vector<const TensorView*>& targets,
                               fettle::Context& context) {
    const GridScheme scheme = grid_of(model);
    FETTLE_ASSIGN(const Weights weights, Weights::open(model.folder()));
    const FoldPlan plan(weights.config(), model, targets, std::nullopt);
    FETTLE_ASSIGN(QuantizedWriter writer, writer_for(p, context.output("model"), model, targets, plan.changed()));
    Quantizer quantizer(p, context, scheme, plan, writer);
    FETTLE_TRY(quantize_blocks(model, targets, p, context, block_quantization(quantizer)));
    FETTLE_TRY(writer.finish());
    quantizer.report();
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-int8", "0.1.0", "Fettle", "Apache-2.0", QuantizeInt8)
