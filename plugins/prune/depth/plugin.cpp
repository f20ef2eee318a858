// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/structured.h"
#include "fettle_kit/model/sliced_config.h"
#include "fettle_kit/tensor/philox.h"

#include "depth.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

Result<Decoder> open_model(const std::string& folder) {
  FETTLE_ASSIGN(auto weights, Weights::open(folder));
  return Decoder::open(std::move(weights));
}

class PruneDepth {
 public:
  struct Params : depth::Wish {
    std::string score = "influence";
    int measure = 16;
  };

  static fettle::Description<Params> describe() {
    using fettle::at_least, fettle::in_range;
    fettle::Description<Params> d("prune.depth", "Take whole blocks out of a model.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Men et al. 2024, arXiv:2403.03853; Muralidharan et al. 2024, arXiv:2407.14679, section 2.2");
    const auto wish = []<class T>(T depth::Wish::*member) { return static_cast<T Params::*>(member); };
    return with_structured_pruning(d)
        .param("layers", wish(&depth::Wish::layers), "share of the blocks to keep", in_range(0.01, 1))
        .param("layer_count", wish(&depth::Wish::layer_count), "blocks to keep; instead of 'layers'", at_least(1))
        .param("remove", wish(&depth::Wish::remove), "these blocks, counted from 0; instead of 'layers'", at_least(0))
        .param("score", &Params::score,
               "what says which go: how little they change their input, what the model loses without them (measured "
               "anew after each), or chance",
               fettle::one_of({"influence", "loss", "random"}))
        .param("contiguous", wish(&depth::Wish::contiguous), "remove neighbours only, as one run")
        .param("protect_first", wish(&depth::Wish::protect_first), "blocks at the front that stay", at_least(0))
        .param("protect_last", wish(&depth::Wish::protect_last), "blocks at the end that stay", at_least(0))
        .param("measure", &Params::measure,
               "sequences of 'calibration' to measure losses on; 0: all of them for 'loss', "
               "else none",
               in_range(0, 1e6));
  }

  static Status validate(const Params& p) {
    const int ways = (p.layers ? 1 : 0) + (p.layer_count ? 1 : 0) + (p.remove.empty() ? 0 : 1);
    if (ways == 0) return {Code::invalid_argument, "says nothing to remove: give 'layers', 'layer_count' or 'remove'"};
    if (ways > 1)
      return {Code::invalid_argument, "more than one of 'layers', 'layer_count' and 'remove' is given; give one"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    const auto tokens = in.find("calibration");
    if (p.remove.empty()) {
      if (p.score == "influence") FETTLE_TRY(check_importance_inputs(in));
      if (p.score == "loss" && !tokens)
        return {Code::invalid_argument, "'loss' measures what the model loses on text: connect 'calibration'", "score"};
    }
    DecoderShape shape = foretold_shape(model);
    const std::int64_t dense = shape.layers;
    std::int64_t removed = 0;
    if (dense > 0) {
      FETTLE_ASSIGN(removed, depth::count_to_remove(p, dense));
      shape.layers -= removed;
    }
    foretell_sizes(in, e, shape, dense > 0);
    const double hidden = model.number("hidden"), ffn = model.number("ffn");
    const double portion = Decoder::forward_bytes(2048, hidden, ffn, hidden, hidden);
    const bool loss = p.score == "loss" && p.remove.empty();
    const double rows = std::max(static_cast<double>(depth::portion_rows), tokens ? tokens->number("length") : 0);
    e.memory(importance_bytes(in) + portion + (loss ? rows * hidden * 4 * static_cast<double>(dense) : 0) + 200e6);
    if (!tokens) return {};
    const double sequences = tokens->number("sequences");
    const double measured = p.measure > 0 ? std::min<double>(p.measure, sequences) : loss ? sequences : 0;
    // Each round tries every block left, from where it stood on.
    const double rounds = loss ? static_cast<double>(p.contiguous ? 1 : removed) : 0;
    const double passes = measured * (2 + rounds * static_cast<double>(dense) / 2) +
                          (in.find("importance") || p.score != "influence" ? 0 : sequences);
    e.flops(2 * model.number("parameters") * tokens->number("length") * passes);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const std::string folder = context.inputs.at("model").path();
    FETTLE_ASSIGN(const Checkpoint checkpoint, open_dense(context.inputs));
    FETTLE_ASSIGN(const Decoder model, open_model(folder));
    const DecoderShape dense = shape_of(model.config());
    FETTLE_ASSIGN(const std::int64_t count, depth::count_to_remove(p, dense.layers));
    const bool by_loss = p.score == "loss" && p.remove.empty();
    std::optional<TokenSet> text;
    if (const auto calibration = context.inputs.find("calibration"); calibration && (p.measure > 0 || by_loss)) {
      FETTLE_ASSIGN(const TokenSet all, TokenSet::open(calibration->path()));
      const std::int64_t sequences =
          p.measure > 0 ? std::min<std::int64_t>(p.measure, all.sequences()) : all.sequences();
      const auto ids = all.ids().first(static_cast<std::size_t>(sequences * all.length()));
      text.emplace(std::vector<std::int32_t>(ids.begin(), ids.end()), all.length(), all.tokenizer_digest(), all.bos());
    }

    // Where it was measured it is reported, and compared with the loss, whatever decides.
    std::optional<Importance> importance;
    if (context.inputs.find("importance") || (p.score == "influence" && p.remove.empty())) {
      FETTLE_ASSIGN(importance, importance_of(context, model));
      for (std::size_t i = 0; i < importance->influence.size(); ++i)
        context.point("influence", static_cast<double>(i), static_cast<double>(importance->influence[i]));
    }
    std::vector<std::int64_t> removed = p.remove;
    if (by_loss) {
      FETTLE_ASSIGN(removed, least_loss(p, context, model, *text, count, importance));
    } else if (removed.empty()) {
      removed = depth::least(
          p, p.score == "random" ? random_scores(dense.layers, context.seed()) : importance->influence, count);
    }
    std::sort(removed.begin(), removed.end());
    context.info(fmt::format("removes blocks {}", fmt::join(removed, ", ")));

    KeptParts kept = KeptParts::all(dense);
    std::erase_if(kept.layers, [&](std::int64_t l) { return std::binary_search(removed.begin(), removed.end(), l); });
    const std::string output = context.output("model");
    FETTLE_ASSIGN(const std::uint64_t bytes, write_sliced(output, checkpoint, kept, false));
    FETTLE_ASSIGN(const Decoder smaller, open_model(output));
    report_sizes(context, model.config(), model.weights().bytes(), smaller.config(), bytes);
    for (std::size_t i = 0; i < kept.layers.size(); ++i)
      context.point("kept_block", static_cast<double>(i), static_cast<double>(kept.layers[i]));
    context.metric("removed", static_cast<double>(removed.size()), "blocks");
    if (text) {
      const auto stop = [&] { return context.cancelled(); };
      const std::vector<bool> none(static_cast<std::size_t>(dense.layers));
      FETTLE_ASSIGN(const depth::Losses before, depth::losses_without(model, *text, none, {}, stop));
      FETTLE_ASSIGN(const depth::Losses after, depth::losses_without(smaller, *text, none, {}, stop));
      context.metric("nll_before", before.all, "nats");
      context.metric("nll", after.all, "nats");
    }
    return {};
  }

 private:
  static std::vector<float> random_scores(std::int64_t layers, std::uint64_t seed) {
    std::vector<float> scores;
    for (std::int64_t i = 0; i < layers; ++i)
      scores.push_back(static_cast<float>(philox_uniform(seed, 0, static_cast<std::uint64_t>(i))));
    return scores;
  }

  /// Removes what the model misses least: one run at once, or block after block, each measured without those before.
  static Result<std::vector<std::int64_t>> least_loss(const Params& p, fettle::Context& context, const Decoder& model,
                                                      const TokenSet& text, std::int64_t count,
                                                      const std::optional<Importance>& importance) {
    const std::int64_t layers = model.config().layers, at_once = p.contiguous ? count : 1;
    std::vector<bool> gone(static_cast<std::size_t>(layers));
    std::vector<std::int64_t> removed;
    for (std::int64_t round = 0; static_cast<std::int64_t>(removed.size()) < count; ++round) {
      const auto runs = depth::removable(p, layers, at_once, gone);
      FETTLE_ASSIGN(const depth::Losses losses,
                    depth::losses_without(model, text, gone, runs, [&] { return context.cancelled(); }));
      std::size_t least = 0;
      std::vector<double> influence;
      for (std::size_t i = 0; i < runs.size(); ++i) {
        if (losses.without[i] < losses.without[least]) least = i;
        const auto block = static_cast<double>(runs[i].first);
        context.point(fmt::format("loss_without.{}", round + 1).c_str(), block, losses.without[i] - losses.all);
        if (importance && at_once == 1)
          influence.push_back(static_cast<double>(importance->influence[static_cast<std::size_t>(runs[i].first)]));
      }
      if (round == 0 && !influence.empty()) {
        const double correlation = depth::rank_correlation(influence, losses.without);
        if (!std::isnan(correlation)) context.metric("influence_rank_correlation", correlation);
      }
      for (std::int64_t i = 0; i < runs[least].count; ++i) {
        removed.push_back(runs[least].first + i);
        gone[static_cast<std::size_t>(removed.back())] = true;
      }
      context.progress("blocks", removed.size(), static_cast<std::uint64_t>(count));
    }
    return removed;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-depth", "0.1.0", "Fettle", "Apache-2.0", PruneDepth)
