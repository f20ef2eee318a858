// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/prune_blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>

namespace fettle::kit {
namespace {

/// The layer of "model.layers.N....", or -1.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view prefix = "model.layers.";
  if (!name.starts_with(prefix)) return -1;
  return std::strtoll(std::string(name.substr(prefix.size())).c_str(), nullptr, 10);
}

/// Only the linears of the blocks have inputs to be measured.
Status check_targets(const std::vector<PruneTarget>& targets) {
  for (const PruneTarget& t : targets) {
    const std::string& name = t.tensor->name;
    const std::int64_t layer = layer_of(name);
    if (std::none_of(block_linears.begin(), block_linears.end(),
                     [&](const BlockLinear& linear) { return layer >= 0 && linear.tensor_name(layer) == name; }))
      return {
          Code::invalid_argument,
          fmt::format("tensor '{}' is not one of the seven linears of a block, so it has no measured inputs; narrow "
                      "'targets', or use prune.magnitude for it",
                      name),
          "targets"};
  }
  return {};
}

/// Prunes block after block on demand: what a block's matrices become is decided when the first of them is written.
class BlockPruner {
 public:
  BlockPruner(const Decoder& model, BlockWalk walk, const std::vector<PruneTarget>& targets, bool dense_propagation,
              const BlockPruning& technique, Context& context)
      : model_(model),
        walk_(std::move(walk)),
        dense_propagation_(dense_propagation),
        technique_(technique),
        context_(context) {
    for (const PruneTarget& t : targets) targets_.emplace(t.tensor->name, t);
  }

  /// The pruned form of a target of `layer`, valid until a later layer is asked for. Layers are asked for in order.
  Result<const PrunedMatrix*> pruned(std::int64_t layer, const std::string& name) {
    while (walk_.layer() <= layer) FETTLE_TRY(prune_block());
    return &block_.at(name);
  }

 private:
  Status prune_block() {
    const std::int64_t layer = walk_.layer();
    technique_.begin_block();
    FETTLE_TRY(walk_.observe(technique_.observe));
    block_.clear();
    BlockWeights changed = model_.block_weights(layer);
    for (const BlockLinear& linear : block_linears) {
      const auto target = targets_.find(linear.tensor_name(layer));
      if (target == targets_.end()) continue;
      if (context_.cancelled()) return cancelled_status();
      FETTLE_ASSIGN(PrunedMatrix result, technique_.prune(target->second, linear.site));
      const PrunedMatrix& kept = block_.emplace(target->first, std::move(result)).first->second;
      (changed.*linear.member).weight.data = kept.bytes.data();
    }
    FETTLE_TRY(walk_.advance(dense_propagation_ ? nullptr : &changed));
    context_.progress("blocks", static_cast<std::uint64_t>(walk_.layer()),
                      static_cast<std::uint64_t>(model_.config().layers));
    return {};
  }

  const Decoder& model_;
  BlockWalk walk_;
  bool dense_propagation_;
  const BlockPruning& technique_;
  Context& context_;
  std::map<std::string, PruneTarget> targets_;
  std::map<std::string, PrunedMatrix> block_;  ///< of the block last pruned
};

}  // namespace

PrunedMatrix zeroed(const TensorView& tensor, Mask mask) {
  PrunedMatrix result{std::move(mask), {tensor.bytes.begin(), tensor.bytes.end()}};
  zero_pruned(result.mask, result.bytes, static_cast<std::size_t>(info(tensor.dtype).block_bytes));
  return result;
}

Status prune_blocks(const CalibratedPruneParams& params, Context& context, const BlockPruning& technique) {
  const std::string folder = context.inputs.at("model").path();
  FETTLE_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder));
  FETTLE_ASSIGN(const auto targets, choose_matrices(checkpoint, params));
  FETTLE_TRY(check_targets(targets));
  FETTLE_ASSIGN(auto weights, Weights::open(folder));
  FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
  FETTLE_ASSIGN(const TokenSet tokens, TokenSet::open(context.inputs.at("calibration").path()));
  FETTLE_ASSIGN(BlockWalk walk, BlockWalk::start(model, tokens, [&] { return context.cancelled(); }));
  BlockPruner pruner(model, std::move(walk), targets, params.propagation == "dense", technique, context);

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
    if (context.cancelled()) return cancelled_status();
    const TensorView& t = *checkpoint.find(spec.name);
    all += t.elements();
    if (next == shapes.size() || shapes[next].name != spec.name) return sink(t.bytes);
    ++next;
    FETTLE_ASSIGN(const PrunedMatrix* const result, pruner.pruned(layer_of(spec.name), spec.name));
    FETTLE_TRY(masks.add(spec.name, result->mask));
    pruned += result->mask.count_pruned();
    targeted += t.elements();
    return sink(result->bytes);
  };
  CheckpointWriterOptions options;
  options.metadata["fettle.sparsity"] = sparsity_text(params);
  FETTLE_TRY(write_checkpoint(context.output("model"), checkpoint.config(), specs, source, folder, options));
  FETTLE_TRY(masks.finish());
  context.metric("sparsity", static_cast<double>(pruned) / static_cast<double>(targeted));
  context.metric("sparsity_of_model", static_cast<double>(pruned) / static_cast<double>(all));
  context.metric("pruned", static_cast<double>(pruned), "weights");
  context.metric("matrices", static_cast<double>(shapes.size()));
  context.metric("calibration_tokens", static_cast<double>(tokens.ids().size()), "tokens");
  return {};
}

void estimate_calibrated_pruning(const CalibratedPruneParams& params, const Inputs& inputs, Estimate& estimate,
                                 double statistics_bytes, double flops_a_weight) {
  const Input model = inputs.at("model"), tokens = inputs.at("calibration");
  const double hidden = model.number("hidden"), ffn = model.number("ffn");
  const double layers = std::max(1.0, model.number("layers"));
  const double rows = tokens.number("sequences") * tokens.number("length");
  const double block = std::max(0.0, model.number("parameters") - model.number("vocab") * hidden) / layers;
  const double boundary = rows * hidden * 4;
  const double portion = Decoder::forward_bytes(2048, hidden, ffn, hidden, hidden);
  const double pruned = block * (2 + 0.125);             // stored bytes and masks of one block
  const double matrix = hidden * std::max(hidden, ffn);  // of the largest one, as f32, twice
  estimate.memory(boundary + portion + pruned + 8 * matrix + statistics_bytes + 64e6)
      .disk(model.number("bytes") * 17 / 16)
      .flops((2 * rows * 2 + flops_a_weight) * block * layers)  // every block runs twice: to be measured, and pruned
      .like("model", model)
      .attribute("model", "sparsity", sparsity_text(params));
}

}  // namespace fettle::kit
