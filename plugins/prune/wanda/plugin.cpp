// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/calibrate/column_norms.h"
#include "fettle_kit/compress/pruning.h"

#include "wanda.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

struct WandaParams : PruneParams {
  WandaParams() { group = "row"; }
  std::string propagation = "compressed";
};

/// The layer of "model.layers.N....", or -1.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view prefix = "model.layers.";
  if (!name.starts_with(prefix)) return -1;
  return std::strtoll(std::string(name.substr(prefix.size())).c_str(), nullptr, 10);
}

/// Prunes block after block on demand: what a block's matrices become is decided when the first of them is written.
class BlockPruner {
 public:
  BlockPruner(const Decoder& model, BlockWalk walk, const std::vector<PruneTarget>& targets, bool dense_propagation,
              fettle::Context& context)
      : model_(model), walk_(std::move(walk)), dense_propagation_(dense_propagation), context_(context) {
    for (const PruneTarget& t : targets) targets_.emplace(t.tensor->name, t);
  }

  struct Pruned {
    Mask mask;
    std::vector<std::byte> bytes;  ///< as the checkpoint stores them
  };

  /// The pruned form of a target of `layer`, valid until a later layer is asked for. Layers are asked for in order.
  fettle::Result<const Pruned*> pruned(std::int64_t layer, const std::string& name) {
    while (walk_.layer() <= layer) FETTLE_TRY(prune_block());
    return &block_.at(name);
  }

 private:
  Status prune_block() {
    const std::int64_t layer = walk_.layer();
    std::vector<ColumnNorms> norms;
    for (std::size_t s = 0; s < site_count; ++s) norms.emplace_back(width_of(static_cast<Site>(s), model_.config()));
    FETTLE_TRY(walk_.observe([&](Site site, ConstMatrix x) { norms[index_of(site)].add(x); }));

    block_.clear();
    BlockWeights changed = model_.block_weights(layer);
    for (const BlockLinear& linear : block_linears) {
      const auto target = targets_.find(linear.tensor_name(layer));
      if (target == targets_.end()) continue;
      FETTLE_ASSIGN(Pruned result, prune_matrix(target->second, norms[index_of(linear.site)].l2()));
      const Pruned& kept = block_.emplace(target->first, std::move(result)).first->second;
      (changed.*linear.member).weight.data = kept.bytes.data();
    }
    FETTLE_TRY(walk_.advance(dense_propagation_ ? nullptr : &changed));
    context_.progress("blocks", static_cast<std::uint64_t>(walk_.layer()),
                      static_cast<std::uint64_t>(model_.config().layers));
    return {};
  }

  fettle::Result<Pruned> prune_matrix(const PruneTarget& target, const std::vector<float>& norm) {
    const TensorView& t = *target.tensor;
    scores_.resize(static_cast<std::size_t>(t.elements()));
    info(t.dtype).to_f32(t.bytes.data(), scores_.data(), scores_.size());
    const MutMatrix view(scores_.data(), t.rows(), t.cols());
    wanda::score(view, norm);
    if (!all_numbers(view))
      return Status(
          Code::invalid_argument,
          fmt::format("tensor '{}' or its calibration inputs hold NaN or infinity; repair the model or put the "
                      "tensor into 'ignore'",
                      t.name));
    Pruned result{mask_of(view, target.sparsity), {t.bytes.begin(), t.bytes.end()}};
    zero_pruned(result.mask, result.bytes, static_cast<std::size_t>(info(t.dtype).block_bytes));
    return result;
  }

  const Decoder& model_;
  BlockWalk walk_;
  bool dense_propagation_;
  fettle::Context& context_;
  std::map<std::string, PruneTarget> targets_;
  std::map<std::string, Pruned> block_;  ///< of the block last pruned
  std::vector<float> scores_;
};

class PruneWanda {
 public:
  using Params = WandaParams;

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.wanda", "Zero the weights of smallest |weight| x input norm.");
    d.epoch(1)
        .version("1.0")
        .reference("Sun et al. 2023, arXiv:2306.11695, section 3")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .input("calibration", "tokens", "text like what the model will read; 128 sequences are plenty",
               "tokenizer=@model")
        .output("model", "model", "the checkpoint with exact zeros; same shapes, same types")
        .output("mask", "mask", "which weights were kept");
    return with_prune_params(d).param("propagation", &Params::propagation,
                                      "what the next block is calibrated on: outputs of the pruned block, or the dense",
                                      fettle::one_of({"compressed", "dense"}));
  }

  static Status validate(const Params& p) { return check_prune_params(p); }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model"), tokens = in.at("calibration");
    const double hidden = model.number("hidden"), ffn = model.number("ffn");
    const double layers = std::max(1.0, model.number("layers"));
    const double rows = tokens.number("sequences") * tokens.number("length");
    const double block = (model.number("parameters") - model.number("vocab") * hidden) / layers;
    const double boundary = rows * hidden * 4;
    const double portion = Decoder::forward_bytes(2048, hidden, ffn, hidden, hidden);
    const double pruned = block * (2 + 0.125);
    const double scores = hidden * std::max(hidden, ffn) * 4;
    e.memory(boundary + portion + pruned + scores + 64e6)
        .disk(model.number("bytes") * 17 / 16)
        .flops(2 * rows * 2 * block * layers)  // every block runs twice: to be measured, and pruned
        .like("model", model)
        .attribute("model", "sparsity", sparsity_text(p));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const std::string folder = context.inputs.at("model").path();
    FETTLE_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder));
    FETTLE_ASSIGN(auto targets, choose_matrices(checkpoint, p));
    FETTLE_TRY(check_targets(targets));
    FETTLE_ASSIGN(auto weights, Weights::open(folder));
    FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
    FETTLE_ASSIGN(const TokenSet tokens, TokenSet::open(context.inputs.at("calibration").path()));
    FETTLE_ASSIGN(BlockWalk walk, BlockWalk::start(model, tokens, [&] { return context.cancelled(); }));
    BlockPruner pruner(model, std::move(walk), targets, p.propagation == "dense", context);

    // Blocks are written in order, because each depends on those before it.
    const auto by_layer = [](const auto& a, const auto& b) { return layer_of(a.name) < layer_of(b.name); };
    std::vector<TensorSpec> specs;
    for (const TensorView* t : checkpoint.tensors()) specs.push_back({t->name, t->dtype, t->shape});
    std::stable_sort(specs.begin(), specs.end(), by_layer);
    std::vector<MaskWriter::Shape> shapes;
    for (const PruneTarget& t : targets) shapes.push_back({t.tensor->name, t.tensor->rows(), t.tensor->cols()});
    std::stable_sort(shapes.begin(), shapes.end(), by_layer);
    FETTLE_ASSIGN(MaskWriter masks, MaskWriter::create(context.output("mask"), shapes));

    std::size_t next = 0;  // into shapes, which are in the order of specs
    std::int64_t pruned = 0, targeted = 0, all = 0;
    const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
      if (context.cancelled()) return fettle::cancelled_status();
      const TensorView& t = *checkpoint.find(spec.name);
      all += t.elements();
      if (next == shapes.size() || shapes[next].name != spec.name) return sink(t.bytes);
      ++next;
      FETTLE_ASSIGN(const BlockPruner::Pruned* const result, pruner.pruned(layer_of(spec.name), spec.name));
      FETTLE_TRY(masks.add(spec.name, result->mask));
      pruned += result->mask.count_pruned();
      targeted += t.elements();
      return sink(result->bytes);
    };
    CheckpointWriterOptions options;
    options.metadata["fettle.sparsity"] = sparsity_text(p);
    FETTLE_TRY(write_checkpoint(context.output("model"), checkpoint.config(), specs, source, folder, options));
    FETTLE_TRY(masks.finish());
    context.metric("sparsity", static_cast<double>(pruned) / static_cast<double>(targeted));
    context.metric("sparsity_of_model", static_cast<double>(pruned) / static_cast<double>(all));
    context.metric("pruned", static_cast<double>(pruned), "weights");
    context.metric("matrices", static_cast<double>(shapes.size()));
    context.metric("calibration_tokens", static_cast<double>(tokens.ids().size()), "tokens");
    return {};
  }

 private:
  /// Only the linears of the blocks have inputs to be measured.
  static Status check_targets(const std::vector<PruneTarget>& targets) {
    for (const PruneTarget& t : targets) {
      const std::string& name = t.tensor->name;
      const std::int64_t layer = layer_of(name);
      if (std::none_of(block_linears.begin(), block_linears.end(),
                       [&](const BlockLinear& linear) { return layer >= 0 && linear.tensor_name(layer) == name; }))
        return {Code::invalid_argument,
                fmt::format("tensor '{}' is not one of the seven linears of a block, so it has no measured inputs; "
                            "narrow 'targets', or use prune.magnitude for it",
                            name),
                "targets"};
    }
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-wanda", "0.1.0", "Fettle", "Apache-2.0", PruneWanda)
