// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/column_magnitudes.h"
#include "fettle_kit/calibrate/fold_plan.h"
#include "fettle_kit/calibrate/gram.h"
#include "fettle_kit/calibrate/quantize_blocks.h"
#include "fettle_kit/compress/folding.h"
#include "fettle_kit/compress/quantization.h"

#include "awq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

namespace {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

struct Params : IntegerParams, CalibratedQuantizeParams {
  Params() {
    format = "awq";
    symmetric = false;
    propagation = "dense";
  }
  int ratios = 20;
  bool duo_scaling = true;
  bool clip = true;
  int search_tokens = 4096;
};

constexpr std::array<Site, site_count> sites = {Site::attention_in, Site::attention_out, Site::mlp_in,
                                                Site::mlp_hidden};
constexpr std::array<const char*, site_count> readers = {"qkv", "o", "gate_up", "down"};
constexpr std::int64_t portion_rows = 2048;  // as the block walk: enough to make the reading of weights cheap

/// What the inputs of a site say.
struct Inputs {
  explicit Inputs(std::int64_t width) : magnitudes(width), gram(width) {}
  ColumnMagnitudes magnitudes;
  Gram gram;
};

/// sum (a - b)^2; a sum a row, then in order.
double squared_difference(ConstMatrix a, ConstMatrix b) {
  double total = 0;
  for (std::int64_t i = 0; i < a.rows; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < a.cols; ++j) {
      const double d = static_cast<double>(a(i, j)) - static_cast<double>(b(i, j));
      sum += d * d;
    }
    total += sum;
  }
  return total;
}

/// Calibration sequences on which whole halves of a block are compared, and what the dense halves make of them.
class Sample {
 public:
  /// Sequences evenly apart, at least one, as many as `tokens` has room for.
  Sample(const Decoder& model, const BlockWalk& walk, std::int64_t tokens)
      : model_(&model), walk_(&walk), dense_(&model.block_weights(walk.layer())) {
    const std::int64_t length = walk.length(), all = walk.tokens() / length;
    const std::int64_t count = std::clamp<std::int64_t>(tokens / length, 1, all);
    before_ = Rows(count * length, walk.states().cols);
    const MutMatrix to = before_;
    for (std::int64_t s = 0; s < count; ++s)
      std::memcpy(to.row(s * length).data(), walk.states().row(s * all / count * length).data(),
                  static_cast<std::size_t>(length * to.cols) * sizeof(float));
    attended_ = before_;
    run(attended_, Half::attention, *dense_);
    after_ = attended_;
    run(after_, Half::mlp, *dense_);
  }

  enum class Half { attention, mlp };
  /// How far the half's outputs move with other weights.
  double loss(Half half, const BlockWeights& weights) const {
    Rows outputs = half == Half::attention ? before_ : attended_;
    run(outputs, half, weights);
    return squared_difference(outputs, half == Half::attention ? attended_ : after_);
  }

 private:
  void run(MutMatrix x, Half half, const BlockWeights& weights) const {
    const std::int64_t length = walk_->length(), at_once = std::max<std::int64_t>(1, portion_rows / length) * length;
    for (std::int64_t first = 0; first < x.rows; first += at_once) {
      const MutMatrix part = x.rows_from(first, std::min(at_once, x.rows - first));
      if (half == Half::attention)
        model_->attend(part, walk_->layer(), weights, {part.rows / length, length}, walk_->positions());
      else
        model_->mlp(part, weights);
    }
  }

  const Decoder* model_;
  const BlockWalk* walk_;
  const BlockWeights* dense_;
  Rows before_, attended_, after_;
};

/// Scales the block that the walk is at, and quantizes its targets as the walk asks for them.
class Quantizer {
 public:
  Quantizer(const Params& p, fettle::Context& context, const std::vector<IntegerTarget>& targets, const FoldPlan& plan,
            IntegerWriter& writer)
      : p_(p), context_(context), plan_(plan), writer_(writer) {
    for (const IntegerTarget& t : targets) targets_.emplace(t.tensor->name, &t);
  }

  void begin_site(Site site) { inputs_[index_of(site)].reset(); }

  void observe(Site site, ConstMatrix x) {
    auto& seen = inputs_[index_of(site)];
    if (!seen) seen.emplace(x.cols);
    seen->magnitudes.add(x);
    seen->gram.add(x);
  }

  Status begin_block(const Decoder& model, const BlockWalk& walk) {
    layer_ = walk.layer();
    for (const BlockLinear& linear : block_linears)
      if (const auto target = targets_.find(linear.tensor_name(layer_)); target != targets_.end())
        if (const auto weights = finite_weights(*target->second->tensor); !weights.ok()) return weights.error();
    block_.emplace(model, layer_);
    const Sample sample(model, walk, p_.search_tokens);
    std::array<std::optional<awq::Scales>, site_count> found;
    for (const Site site : sites)
      if (plan_.folds(layer_, site)) {
        FETTLE_ASSIGN(found[index_of(site)], search(model, sample, site));
      }
    for (const Site site : sites)
      if (const auto& scales = found[index_of(site)]) {
        block_->fold(site, scales->values, plan_.norm_type(layer_, site));
        report(site, *scales);
      }
    return plan_.store(*block_, layer_, [&](const TensorView& t, std::span<const float> values) {
      return writer_.put_plain(t, values);
    });
  }

  Result<std::vector<float>> quantize(const TensorView& t, Site site) {
    const IntegerTarget& target = *targets_.at(t.name);
    const std::size_t linear = place_of(t.name);
    const MutMatrix w = block_->matrix(linear);
    const bool query_or_key = linear < v_linear;  // their error shows in products of both, which no group alone sees
    if (p_.clip && !query_or_key) {
      const std::vector<float> gram = awq::whole_gram(inputs_[index_of(site)]->gram.sum());
      awq::clip(w, block_->column_scales(site), ConstMatrix(gram.data(), w.cols, w.cols), target.scheme);
    }
    const CodedMatrix coded = round_to_grid(w, target.scheme);
    FETTLE_TRY(writer_.put(target, coded));
    std::vector<float> values(static_cast<std::size_t>(w.rows * w.cols));
    const MutMatrix read(values.data(), w.rows, w.cols);
    coded.read(0, read);
    block_->unfold(linear, read);
    return values;
  }

  void report() const {
    if (groups_ == 0) return;
    context_.metric("mean_ratio", ratio_sum_ / groups_);
    context_.metric("search_loss_ratio", loss_ratio_sum_ / groups_);
  }

 private:
  std::size_t place_of(const std::string& name) const {
    std::size_t i = 0;
    while (block_linears[i].tensor_name(layer_) != name) ++i;
    return i;
  }

  const GridScheme& scheme_of(std::size_t linear) const {
    return targets_.at(block_linears[linear].tensor_name(layer_))->scheme;
  }

  /// The scales of a site with the least loss: of the attention or the MLP as a whole where several matrices read the
  /// site, of the outputs of the one matrix else.
  Result<awq::Scales> search(const Decoder& model, const Sample& sample, Site site) {
    const ModelConfig& config = model.config();
    std::vector<std::size_t> linears;
    std::vector<ConstMatrix> matrices;
    for (std::size_t i = 0; i < block_linears.size(); ++i)
      if (block_linears[i].site == site) {
        linears.push_back(i);
        matrices.push_back(std::as_const(*block_).matrix(i));
      }
    const Inputs& inputs = *inputs_[index_of(site)];
    const bool heads = site == Site::attention_out;
    std::vector<float> mean_abs = inputs.magnitudes.mean_abs(), weight;
    if (p_.duo_scaling) weight = awq::relative_weights(matrices, scheme_of(linears.front()));
    if (heads) {
      mean_abs = mean_over_sharing_heads(mean_abs, config.heads, config.kv_heads);
      if (!weight.empty()) weight = mean_over_sharing_heads(weight, config.heads, config.kv_heads);
    }
    const DType norm_type = plan_.norm_type(layer_, site);
    const auto scales = [&](double ratio) {
      return block_->fitting(site, awq::scales_at(ratio, mean_abs, weight), norm_type);
    };

    BlockWeights changed = model.block_weights(layer_);
    std::vector<std::vector<float>> values;
    for (const ConstMatrix& w : matrices) values.emplace_back(static_cast<std::size_t>(w.rows * w.cols));
    const auto round = [&](std::span<const float> columns) {
      for (std::size_t k = 0; k < linears.size(); ++k) {
        const ConstMatrix& w = matrices[k];
        awq::round_scaled(MutMatrix(values[k].data(), w.rows, w.cols), w, columns, scheme_of(linears[k]));
        StoredMatrix& weight_of = (changed.*block_linears[linears[k]].member).weight;
        weight_of = {std::as_bytes(std::span(values[k])).data(), DType::f32, w.rows, w.cols};
      }
    };
    std::vector<float> gram;
    if (linears.size() == 1) gram = awq::whole_gram(inputs.gram.sum());
    return awq::search_scales(p_.ratios, scales, [&](std::span<const float> tried) -> Result<double> {
      if (context_.cancelled()) return fettle::cancelled_status();
      if (linears.size() > 1) {
        round(tried);
        return sample.loss(site == Site::attention_in ? Sample::Half::attention : Sample::Half::mlp, changed);
      }
      round(heads ? repeat_for_heads(tried, config.heads, config.kv_heads)
                  : std::vector<float>(tried.begin(), tried.end()));
      const ConstMatrix& w = matrices.front();
      double total = 0;
      for (const double row : awq::row_losses(w, ConstMatrix(values.front().data(), w.rows, w.cols),
                                              ConstMatrix(gram.data(), w.cols, w.cols)))
        total += row;
      return total;
    });
  }

  void report(Site site, const awq::Scales& scales) {
    const std::string name = readers[index_of(site)];
    const double ratio = scales.unscaled_loss > 0 ? scales.loss / scales.unscaled_loss : 1;
    context_.point(("ratio." + name).c_str(), static_cast<double>(layer_), scales.ratio);
    context_.point(("loss_ratio." + name).c_str(), static_cast<double>(layer_), ratio);
    ratio_sum_ += scales.ratio;
    loss_ratio_sum_ += ratio;
    ++groups_;
  }

  const Params& p_;
  fettle::Context& context_;
  const FoldPlan& plan_;
  IntegerWriter& writer_;
  std::map<std::string, const IntegerTarget*> targets_;
  std::array<std::optional<Inputs>, site_count> inputs_;
  std::optional<FoldableBlock> block_;
  std::int64_t layer_ = -1;
  double ratio_sum_ = 0, loss_ratio_sum_ = 0;
  int groups_ = 0;
};

class QuantizeAwq {
 public:
  using Params = ::Params;

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d(
        "quantize.awq", "Scale the channels that matter before rounding, clip ranges where that helps, and round.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Lin et al. 2023, arXiv:2306.00978")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .input("calibration", "tokens", "text like what the model will read; 64 sequences are plenty",
               "tokenizer=@model")
        .output("model", "model", "a quantized checkpoint for AWQ clients, or for transformers and vLLM");
    with_integer_params(d)
        .param("ratios", &Params::ratios,
               "strengths of scaling to try for each group of matrices: 0, 1/n, ..., (n-1)/n", fettle::in_range(1, 100))
        .param("duo_scaling", &Params::duo_scaling,
               "scale less where the weights themselves are large, as AutoAWQ does")
        .param("clip", &Params::clip, "cut the range of each group where its outputs gain; not of q and k")
        .param("search_tokens", &Params::search_tokens,
               "calibration tokens on which attention and MLP are compared; o_proj, down_proj and clipping see all",
               fettle::in_range(1, 1e9));
    return with_one_pass_quantization(d);
  }

  static Status validate(const Params& p) {
    FETTLE_TRY(check_integer_params(p));
    if (p.sharing == "tensor")
      return {Code::invalid_argument,
              "AWQ scales and clips inside groups or rows; use sharing: group or channel, or quantize.rtn", "sharing"};
    if (p.clip && p.search)
      return {Code::invalid_argument, "'clip' and 'search' both choose the range; use clip: false with it", "search"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const double hidden = in.at("model").number("hidden"), ffn = in.at("model").number("ffn");
    const double widest = std::max(hidden, ffn);
    const double block = 4 * hidden * hidden + 3 * hidden * ffn;
    const double sample = std::min<double>(
        p.search_tokens, in.at("calibration").number("sequences") * in.at("calibration").number("length"));
    // Gram matrices of a block and one in f32; the block and the values of a group in f32, twice while they are
    // compared; the sample at three places of the block.
    const double statistics =
        8 * (3 * hidden * hidden + ffn * ffn) + 4 * widest * widest + 12 * block + 16 * sample * hidden;
    FETTLE_TRY(estimate_quantize_walk(p, in, e, statistics, p.ratios * (2 * sample + widest)));
    e.attribute("model", "weights", weights_attribute(p));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto targets, integer_targets(model, p));
    FETTLE_ASSIGN(const Weights weights, Weights::open(model.folder()));
    std::vector<const TensorView*> tensors;
    for (const IntegerTarget& t : targets) tensors.push_back(t.tensor);
    warn_of_unlike(model, targets, context);
    const FoldPlan plan(weights.config(), model, tensors, dense_type(p));
    FETTLE_ASSIGN(IntegerWriter writer,
                  IntegerWriter::create(context.output("model"), model, targets, p, {}, plan.changed()));
    Quantizer quantizer(p, context, targets, plan, writer);
    FETTLE_TRY(quantize_blocks(model, tensors, p, context, block_quantization(quantizer)));
    FETTLE_TRY(writer.finish());
    quantizer.report();
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-awq", "0.1.0", "Fettle", "Apache-2.0", QuantizeAwq)
