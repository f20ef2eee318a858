// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/quantize_blocks.h"

#include "fettle_kit/calibrate/held_out.h"
#include "fettle_kit/calibrate/walk_cost.h"
#include "fettle_kit/model/foreseen.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

namespace fettle::kit {
namespace {

constexpr std::array<Site, site_count> sites = {Site::attention_in, Site::attention_out, Site::mlp_in,
                                                Site::mlp_hidden};

/// The targets of one block, quantized.
using Values = std::map<std::string, std::vector<float>>;

}  // namespace

Status quantize_blocks(const Checkpoint& checkpoint, const std::vector<const TensorView*>& targets,
                       const CalibratedQuantizeParams& params, Context& context, const BlockQuantization& technique) {
  std::map<std::string, const TensorView*> by_name;
  for (const TensorView* t : targets) {
    if (!is_block_linear(t->name))
      return {
          Code::invalid_argument,
          fmt::format("tensor '{}' is not one of the seven linears of a block, so it has no measured inputs; narrow "
                      "'targets', or use quantize.rtn for it",
                      t->name),
          "targets"};
    by_name.emplace(t->name, t);
  }
  FETTLE_ASSIGN(auto weights, Weights::open(checkpoint.folder()));
  FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
  FETTLE_ASSIGN(const TokenSet tokens, TokenSet::open(context.inputs.at("calibration").path()));
  FETTLE_ASSIGN(const SplitTokens split, split_tokens(tokens, params.held_out));
  const auto stop = [&] { return context.cancelled(); };
  FETTLE_ASSIGN(BlockWalk walk, BlockWalk::start(model, split.used, stop));
  std::optional<HeldOutErrors> held;
  if (split.held) {
    FETTLE_ASSIGN(BlockWalk aside, BlockWalk::start(model, *split.held, stop));
    held.emplace(model, std::move(aside), context);
  }
  const bool dense = params.propagation == "dense";
  while (!walk.done()) {
    const std::int64_t layer = walk.layer();
    BlockWeights changed = model.block_weights(layer);
    Values values;
    const auto observe = [&](Site site, ConstMatrix x) {
      technique.observe(site, x);
      if (site != Site::attention_in || !technique.observe_cache) return;
      const ModelConfig& c = model.config();
      Rows k(x.rows, c.kv_heads * c.head_dim), v(x.rows, c.kv_heads * c.head_dim);
      model.keys_and_values(k, v, x, layer, model.block_weights(layer), {x.rows / walk.length(), walk.length()},
                            walk.positions());
      technique.observe_cache(k, v);
    };
    const auto quantize_site = [&](Site site) -> Status {
      for (const BlockLinear& linear : block_linears) {
        const auto target = by_name.find(linear.tensor_name(layer));
        if (linear.site != site || target == by_name.end()) continue;
        if (context.cancelled()) return cancelled_status();
        FETTLE_ASSIGN(auto result, technique.quantize(*target->second, site));
        const auto& kept = values.emplace(target->first, std::move(result)).first->second;
        StoredMatrix& weight = (changed.*linear.member).weight;
        weight = {std::as_bytes(std::span(kept)).data(), DType::f32, weight.rows, weight.cols};
      }
      return {};
    };
    if (params.true_sequential) {
      for (const Site site : sites) {
        technique.begin_site(site);
        FETTLE_TRY(walk.observe(changed, [&](Site seen, ConstMatrix x) {
          if (seen == site) observe(seen, x);
        }));
        FETTLE_TRY(quantize_site(site));
      }
    } else {
      for (const Site site : sites) technique.begin_site(site);
      FETTLE_TRY(walk.observe(observe));
      if (technique.begin_block) FETTLE_TRY(technique.begin_block(model, walk));
      for (const Site site : sites) FETTLE_TRY(quantize_site(site));
    }
    FETTLE_TRY(walk.advance(dense ? nullptr : &changed));
    if (held) FETTLE_TRY(held->measure(changed, dense, [&](const std::string& name) { return values.contains(name); }));
    context.progress("blocks", static_cast<std::uint64_t>(layer + 1),
                     static_cast<std::uint64_t>(model.config().layers));
  }
  context.metric("matrices", static_cast<double>(targets.size()));
  context.metric("calibration_tokens", static_cast<double>(split.used.sequences() * tokens.length()), "tokens");
  if (held && held->mean()) context.metric("reconstruction_error", *held->mean());
  return {};
}

Status EnoughTokens::check(const TensorView& t, std::int64_t tokens) {
  if (tokens < 2 * t.cols())
    return {Code::invalid_argument,
            fmt::format("{} calibration tokens are too few for the {} inputs of '{}': below {} rounding to nearest is "
                        "better; give data.tokens more sequences (16 tokens an input are good)",
                        tokens, t.cols(), t.name, 2 * t.cols()),
            "calibration"};
  if (tokens < 16 * t.cols() && !std::exchange(said_few_, true))
    context_.warn(
        fmt::format("{} calibration tokens are few for the {} inputs of '{}'; from {} on the result stops "
                    "improving",
                    tokens, t.cols(), t.name, 16 * t.cols()));
  return {};
}

Status estimate_quantize_walk(const CalibratedQuantizeParams& params, const Inputs& inputs, Estimate& estimate,
                              double statistics_bytes, double flops_a_weight, double solver_bytes) {
  FETTLE_TRY(check_family(inputs, "model"));
  const Input model = inputs.at("model");
  const WalkCost cost(model, inputs.at("calibration"));
  const double values = cost.block * sizeof(float);                 // the block as it will be read back
  const double solving = std::max(solver_bytes, 12 * cost.matrix);  // as f32, its codes, packed
  const double passes = params.true_sequential ? 5 : 2;
  estimate
      .memory(cost.boundary + statistics_bytes + std::max(cost.portion, values + std::max(solving, cost.held_out)) +
              WalkCost::rest)
      .disk(model.number("bytes"))
      .flops((2 * cost.tokens * passes + flops_a_weight) * cost.block * cost.layers)
      .like("model", model);
  return {};
}

}  // namespace fettle::kit
