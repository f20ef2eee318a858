// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/prune_blocks.h"

#include "fettle_kit/calibrate/held_out.h"
#include "fettle_kit/calibrate/walk_cost.h"
#include "fettle_kit/compress/targets.h"
#include "fettle_kit/model/foreseen.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace fettle::kit {
namespace {

/// Only the linears of the blocks have inputs to be measured.
Status check_targets(const std::vector<PruneTarget>& targets) {
  for (const PruneTarget& t : targets)
    if (!is_block_linear(t.tensor->name))
      return {
          Code::invalid_argument,
          fmt::format("tensor '{}' is not one of the seven linears of a block, so it has no measured inputs; narrow "
                      "'targets', or use prune.magnitude for it",
                      t.tensor->name),
          "targets"};
  return {};
}

constexpr std::array<Site, site_count> sites = {Site::attention_in, Site::attention_out, Site::mlp_in,
                                                Site::mlp_hidden};

Status too_few(std::int64_t tokens, std::int64_t inputs, const std::string& tensor) {
  return {Code::invalid_argument,
          fmt::format("{} calibration tokens are too few for the {} inputs of '{}': below {} the update is worse than "
                      "none; give data.tokens more sequences ({} tokens an input are good)",
                      tokens, inputs, tensor, least_tokens_an_input * inputs, good_tokens_an_input),
          "calibration"};
}

/// For a technique that fits weights to the tokens; the widest target decides.
Status check_tokens(const std::vector<PruneTarget>& targets, std::int64_t tokens, const Context& context) {
  const auto widest = std::max_element(targets.begin(), targets.end(), [](const PruneTarget& a, const PruneTarget& b) {
    return a.tensor->cols() < b.tensor->cols();
  });
  if (widest == targets.end()) return {};
  const std::int64_t inputs = widest->tensor->cols();
  if (tokens < least_tokens_an_input * inputs) return too_few(tokens, inputs, widest->tensor->name);
  if (tokens < good_tokens_an_input * inputs)
    context.warn(
        fmt::format("{} calibration tokens are few for the {} inputs of '{}'; from {} on the result stops improving",
                    tokens, inputs, widest->tensor->name, good_tokens_an_input * inputs));
  return {};
}

/// Prunes block after block on demand: what a block's matrices become is decided when the first of them is written.
class BlockPruner {
 public:
  BlockPruner(const Decoder& model, BlockWalk walk, std::optional<HeldOutErrors> held, const PruneWalk& plan,
              const BlockPruning& technique, Context& context)
      : model_(model),
        walk_(std::move(walk)),
        held_(std::move(held)),
        dense_propagation_(plan.dense_propagation),
        true_sequential_(plan.true_sequential),
        technique_(technique),
        context_(context) {
    for (const PruneTarget& t : plan.targets) targets_.emplace(t.tensor->name, t);
  }

  /// The pruned form of a target of `layer`, valid until a later layer is asked for. Layers are asked for in order.
  Result<const PrunedMatrix*> pruned(std::int64_t layer, const std::string& name) {
    while (walk_.layer() <= layer) FETTLE_TRY(prune_block());
    return &block_.at(name);
  }
  /// Mean over the matrices so far; nothing without held-out sequences.
  std::optional<double> mean_error() const { return held_ ? held_->mean() : std::nullopt; }

 private:
  Status prune_block() {
    const std::int64_t layer = walk_.layer();
    block_.clear();
    BlockWeights changed = model_.block_weights(layer);
    if (true_sequential_) {
      for (const Site site : sites) {
        technique_.begin_site(site);
        FETTLE_TRY(walk_.observe(changed, [&](Site seen, ConstMatrix x) {
          if (seen == site) technique_.observe(seen, x);
        }));
        FETTLE_TRY(prune_site(layer, site, changed));
      }
      FETTLE_TRY(walk_.advance(dense_propagation_ ? nullptr : &changed));
    } else {
      for (const Site site : sites) technique_.begin_site(site);
      // What the dense block puts out can be kept while it is measured.
      FETTLE_TRY(dense_propagation_ ? walk_.pass(technique_.observe, {}) : walk_.observe(technique_.observe));
      for (const Site site : sites) FETTLE_TRY(prune_site(layer, site, changed));
      if (!dense_propagation_) FETTLE_TRY(walk_.advance(&changed));
    }
    if (held_)
      FETTLE_TRY(
          held_->measure(changed, dense_propagation_, [&](const std::string& name) { return block_.contains(name); }));
    context_.progress("blocks", static_cast<std::uint64_t>(walk_.layer()),
                      static_cast<std::uint64_t>(model_.config().layers));
    return {};
  }

  /// Prunes the targets that read the site, and puts them into `changed`.
  Status prune_site(std::int64_t layer, Site site, BlockWeights& changed) {
    for (const BlockLinear& linear : block_linears) {
      const auto target = targets_.find(linear.tensor_name(layer));
      if (linear.site != site || target == targets_.end()) continue;
      if (context_.cancelled()) return cancelled_status();
      FETTLE_ASSIGN(PrunedMatrix result, technique_.prune(target->second, site));
      const PrunedMatrix& kept = block_.emplace(target->first, std::move(result)).first->second;
      (changed.*linear.member).weight.data = kept.bytes.data();
    }
    return {};
  }

  const Decoder& model_;
  BlockWalk walk_;
  std::optional<HeldOutErrors> held_;
  bool dense_propagation_, true_sequential_;
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

Result<PrunedMatrix> ScorePruner::prune(const PruneTarget& target, const std::function<void(MutMatrix)>& score) {
  const TensorView& t = *target.tensor;
  buffer_.resize(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), buffer_.data(), buffer_.size());
  const MutMatrix view(buffer_.data(), t.rows(), t.cols());
  score(view);
  if (!all_numbers(view))
    return Status(Code::invalid_argument,
                  fmt::format("tensor '{}' or its calibration inputs hold NaN or infinity; repair the model or put the "
                              "tensor into 'ignore'",
                              t.name));
  histograms_.of(t.name).add(view, target.sparsity.pattern ? Group::row : target.sparsity.group);
  return zeroed(t, mask_of(view, target.sparsity));
}

Result<PruneWalk> chosen_walk(const Checkpoint& checkpoint, const CalibratedPruneParams& params) {
  FETTLE_ASSIGN(auto targets, choose_matrices(checkpoint, params));
  PruneWalk walk;
  walk.targets = std::move(targets);
  walk.dense_propagation = params.propagation == "dense";
  walk.true_sequential = params.true_sequential;
  walk.held_out = params.held_out;
  walk.sparsity = sparsity_text(params);
  walk.precision = precision_of(params.precision);
  return walk;
}

Status prune_blocks(const Checkpoint& checkpoint, const PruneWalk& plan, Context& context,
                    const BlockPruning& technique) {
  const std::string& folder = checkpoint.folder();
  FETTLE_TRY(check_targets(plan.targets));
  FETTLE_ASSIGN(auto weights, Weights::open(folder));
  FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights), plan.precision));
  FETTLE_ASSIGN(const TokenSet tokens, TokenSet::open(context.inputs.at("calibration").path()));
  FETTLE_ASSIGN(const SplitTokens split, split_tokens(tokens, plan.held_out));
  if (plan.fitted) FETTLE_TRY(check_tokens(plan.targets, split.used.sequences() * tokens.length(), context));
  const auto stop = [&] { return context.cancelled(); };
  FETTLE_ASSIGN(BlockWalk walk, BlockWalk::start(model, split.used, stop));
  std::optional<HeldOutErrors> held;
  if (split.held) {
    FETTLE_ASSIGN(BlockWalk aside, BlockWalk::start(model, *split.held, stop));
    held.emplace(model, std::move(aside), context);
  }
  BlockPruner pruner(model, std::move(walk), std::move(held), plan, technique, context);

  // Blocks are written in order, because each depends on those before it.
  const auto by_layer = [](const auto& a, const auto& b) { return layer_of(a.name) < layer_of(b.name); };
  std::vector<TensorSpec> specs;
  for (const TensorView* t : checkpoint.tensors()) specs.push_back({t->name, t->dtype, t->shape});
  std::stable_sort(specs.begin(), specs.end(), by_layer);
  std::vector<MaskWriter::Shape> shapes;
  for (const PruneTarget& t : plan.targets) shapes.push_back({t.tensor->name, t.tensor->rows(), t.tensor->cols()});
  std::stable_sort(shapes.begin(), shapes.end(), by_layer);
  FETTLE_ASSIGN(MaskWriter masks, MaskWriter::create(context.output("mask"), shapes));

  std::size_t next = 0;  // into shapes, which are in the order of specs
  PruneCounts counts;
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    if (context.cancelled()) return cancelled_status();
    const TensorView& t = *checkpoint.find(spec.name);
    counts.add(t);
    if (next == shapes.size() || shapes[next].name != spec.name) {
      FETTLE_TRY(sink(t.bytes));
      checkpoint.drop(t);
      return {};
    }
    ++next;
    FETTLE_ASSIGN(const PrunedMatrix* const result, pruner.pruned(layer_of(spec.name), spec.name));
    FETTLE_TRY(masks.add(spec.name, result->mask));
    counts.add(result->mask);
    checkpoint.drop(t);
    return sink(result->bytes);
  };
  CheckpointWriterOptions options;
  options.metadata["fettle.sparsity"] = plan.sparsity;
  FETTLE_TRY(write_checkpoint(context.output("model"), checkpoint.config(), specs, source, folder, options));
  FETTLE_TRY(masks.finish());
  counts.report(context);
  context.metric("matrices", static_cast<double>(shapes.size()));
  context.metric("calibration_tokens", static_cast<double>(split.used.sequences() * tokens.length()), "tokens");
  if (const auto error = pruner.mean_error()) context.metric("reconstruction_error", *error);
  return {};
}

Status estimate_prune_walk(const Inputs& inputs, Estimate& estimate, double statistics_bytes, double flops_a_weight,
                           int passes, double solver_bytes) {
  FETTLE_TRY(check_family(inputs, "model"));
  const Input model = inputs.at("model");
  const WalkCost cost(model, inputs.at("calibration"));
  const double pruned = cost.block * (cost.stored + 0.125);  // the block as it will be written, and its masks
  const double solving = solver_bytes + cost.matrix * sizeof(float) + pruned;
  estimate
      .memory(cost.boundary + statistics_bytes + std::max({cost.portion, solving, pruned + cost.held_out}) +
              WalkCost::rest)
      .disk(model.number("bytes") * 17 / 16)
      .flops((2 * cost.tokens * passes + flops_a_weight) * cost.block * cost.layers)
      .like("model", model);
  return {};
}

Status estimate_calibrated_pruning(const CalibratedPruneParams& params, const Inputs& inputs, Estimate& estimate,
                                   double statistics_bytes, double flops_a_weight, double solver_bytes) {
  // Every block runs to be measured, once or at each of its sites, and to pass on what it puts out when pruned.
  const int passes = params.true_sequential ? 5 : params.propagation == "dense" ? 1 : 2;
  FETTLE_TRY(estimate_prune_walk(inputs, estimate, statistics_bytes, flops_a_weight, passes, solver_bytes));
  estimate.attribute("model", "sparsity", sparsity_text(params));
  return {};
}

Status check_foretold_tokens(const CalibratedPruneParams& params, const Inputs& inputs) {
  const Input model = inputs.at("model"), tokens = inputs.at("calibration");
  const auto sequences = static_cast<std::int64_t>(tokens.number("sequences"));
  const auto used = (sequences - params.held_out.value_or(static_cast<int>(sequences / 16))) *
                    static_cast<std::int64_t>(tokens.number("length"));
  if (used <= 0) return {};  // unknown, or refused when it runs
  const auto layers = static_cast<std::int64_t>(model.number("layers"));
  for (auto linear = block_linears.rbegin(); linear != block_linears.rend();
       ++linear) {                                      // down_proj, the widest, first
    if (linear->site == Site::attention_out) continue;  // as wide as all heads, which no attribute tells
    const auto inputs_of = static_cast<std::int64_t>(model.number(linear->site == Site::mlp_hidden ? "ffn" : "hidden"));
    if (used >= least_tokens_an_input * inputs_of) continue;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      const std::string name = linear->tensor_name(layer);
      if (first_match(params.targets, name) >= 0 && first_match(params.ignore, name) < 0)
        return too_few(used, inputs_of, name);
    }
  }
  return {};
}

}  // namespace fettle::kit
