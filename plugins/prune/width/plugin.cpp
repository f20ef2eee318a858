// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/structured.h"
#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/model/sliced_config.h"

#include "width.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

Result<TokenSet> first_sequences(const std::string& folder, std::int64_t count) {
  FETTLE_ASSIGN(const TokenSet all, TokenSet::open(folder));
  const auto ids = all.ids().first(static_cast<std::size_t>(std::min(count, all.sequences()) * all.length()));
  return TokenSet({ids.begin(), ids.end()}, all.length(), all.tokenizer_digest(), all.bos());
}

Result<double> loss_of(const Decoder& model, const TokenSet& tokens, const fettle::Context& context) {
  FETTLE_ASSIGN(const Perplexity measured,
                perplexity(model, tokens, nullptr, {[&] { return context.cancelled(); }, {}}));
  return measured.nll.value;
}

Result<Decoder> open_model(const std::string& folder) {
  FETTLE_ASSIGN(auto weights, Weights::open(folder));
  return Decoder::open(std::move(weights));
}

class PruneWidth {
 public:
  struct Params : width::Wish {
    std::optional<fettle::Count> params;
    double floor = 0.6;
    int candidates = 10;
    std::string score = "activation";
    bool norm_gain = true;
    int measure = 16;
  };

  static fettle::Description<Params> describe() {
    using fettle::at_least, fettle::in_range;
    fettle::Description<Params> d("prune.width",
                                  "Cut FFN neurons, attention heads and hidden channels out of a model.");
    d.epoch(1).version("1.0").determinism(FETTLE_ISA).reference("Muralidharan et al. 2024, arXiv:2407.14679");
    const auto wish = []<class T>(T width::Wish::*member) { return static_cast<T Params::*>(member); };
    return with_structured_pruning(d)
        .param("ffn", wish(&width::Wish::ffn), "share of the FFN neurons to keep", in_range(0.01, 1))
        .param("ffn_size", wish(&width::Wish::ffn_size), "FFN neurons to keep; instead of 'ffn'", at_least(1))
        .param("heads", wish(&width::Wish::heads), "share of the query heads of each KV head to keep",
               in_range(0.01, 1))
        .param("head_count", wish(&width::Wish::head_count), "query heads to keep; instead of 'heads'", at_least(1))
        .param("kv_heads", wish(&width::Wish::kv_heads), "share of the KV heads to keep, with their query heads",
               in_range(0.01, 1))
        .param("kv_head_count", wish(&width::Wish::kv_head_count), "KV heads to keep; instead of 'kv_heads'",
               at_least(1))
        .param("hidden", wish(&width::Wish::hidden), "share of the hidden channels to keep", in_range(0.01, 1))
        .param("hidden_size", wish(&width::Wish::hidden_size), "hidden channels to keep; instead of 'hidden'",
               at_least(1))
        .param(
            "multiple", wish(&width::Wish::multiple),
            "FFN and hidden size become multiples of it; default: the largest power of two up to 256 (k-quants) that "
            "divides the size",
            in_range(1, 1 << 20))
        .param("params", &Params::params,
               "parameters at most: searches the sizes that are not given, needs 'calibration'", at_least(1))
        .param("floor", &Params::floor, "share of a size that the search keeps at least", in_range(0.05, 1))
        .param("candidates", &Params::candidates, "shapes that the search measures, the largest that fit",
               in_range(1, 1000))
        .param("score", &Params::score, "what says which parts stay",
               fettle::one_of({"activation", "weight", "random"}))
        .param("norm_gain", &Params::norm_gain,
               "with fewer hidden channels, raise the gain of norms by sqrt(all / kept): their mean is over fewer")
        .param("measure", &Params::measure, "sequences of 'calibration' to measure losses on; 0: none",
               in_range(0, 1e6));
  }

  static Status validate(const Params& p) {
    const auto once = [](bool share, bool size, const char* share_key, const char* size_key) -> Status {
      if (!share || !size) return {};
      return {Code::invalid_argument,
              fmt::format("'{}' and '{}' both say how much stays; give one", share_key, size_key), size_key};
    };
    FETTLE_TRY(once(p.ffn.has_value(), p.ffn_size.has_value(), "ffn", "ffn_size"));
    FETTLE_TRY(once(p.heads.has_value(), p.head_count.has_value(), "heads", "head_count"));
    FETTLE_TRY(once(p.kv_heads.has_value(), p.kv_head_count.has_value(), "kv_heads", "kv_head_count"));
    FETTLE_TRY(once(p.hidden.has_value(), p.hidden_size.has_value(), "hidden", "hidden_size"));
    if (!p.any() && !p.params)
      return {Code::invalid_argument, "says nothing to cut: give 'ffn', 'heads', 'kv_heads', 'hidden' or 'params'"};
    if (p.params && p.measure == 0)
      return {Code::invalid_argument, "'params' compares shapes by their loss, so it cannot be 0", "measure"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    if (p.score == "activation") FETTLE_TRY(check_importance_inputs(in));
    if (p.params && !in.find("calibration"))
      return {Code::invalid_argument, "'params' compares shapes by their loss: connect 'calibration'", "params"};
    const fettle::Input model = in.at("model");
    const DecoderShape dense = foretold_shape(model);
    DecoderShape cut = dense;
    const bool known = dense.heads > 0 && dense.kv_heads > 0 && dense.hidden > 0 && dense.ffn > 0;
    if (known) {
      FETTLE_ASSIGN(cut, width::wanted_shape(p, dense));
    }
    foretell_sizes(in, e, cut, known && !p.params, p.params ? static_cast<double>(p.params->value) : 0);
    // Up to 2,048 tokens in a forward pass, and their logits in portions of 64 MiB.
    const double measuring = Decoder::forward_bytes(2048, model.number("hidden"), model.number("ffn"),
                                                    model.number("hidden"), model.number("hidden"));
    e.memory(importance_bytes(in) + measuring + 200e6);
    const auto tokens = in.find("calibration");
    if (!tokens) return {};
    const double length = tokens->number("length"), sequences = tokens->number("sequences");
    const double passes = (in.find("importance") ? 0 : sequences) +
                          std::min<double>(sequences, p.measure) * (2 + (p.params ? p.candidates : 0));
    e.flops(2 * model.number("parameters") * length * passes);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const std::string folder = context.inputs.at("model").path();
    FETTLE_ASSIGN(const Checkpoint checkpoint, open_dense(context.inputs));
    FETTLE_ASSIGN(const Decoder model, open_model(folder));
    const ModelConfig& config = model.config();
    const DecoderShape dense = shape_of(config);
    FETTLE_ASSIGN(DecoderShape cut, width::wanted_shape(p, dense));
    std::vector<DecoderShape> shapes;
    if (p.params) {
      FETTLE_ASSIGN(shapes, width::candidates(p, config, p.params->value, p.floor, p.candidates));
    }
    std::optional<TokenSet> text;
    if (const auto calibration = context.inputs.find("calibration"); calibration && p.measure > 0) {
      FETTLE_ASSIGN(text, first_sequences(calibration->path(), p.measure));
    }

    FETTLE_ASSIGN(const width::Scores scores, scores_of(p, context, model));
    if (p.params) {
      FETTLE_ASSIGN(cut, best_candidate(p, context, checkpoint, config, scores, shapes, *text));
    }
    if (const std::string warning = width::k_quant_warning(dense, cut); !warning.empty()) context.warn(warning);
    const KeptParts kept = width::keep(scores, dense, cut);
    const std::string output = context.output("model");
    FETTLE_ASSIGN(const std::uint64_t bytes, write_sliced(output, checkpoint, kept, p.norm_gain));

    FETTLE_ASSIGN(const Decoder smaller, open_model(output));
    report_sizes(context, config, model.weights().bytes(), smaller.config(), bytes);
    report_kept(context, "ffn", scores.ffn, kept.ffn);
    report_kept(context, "heads", scores.heads, kept.heads);
    report_kept(context, "hidden", scores.hidden, {kept.hidden});
    if (text) {
      FETTLE_ASSIGN(const double before, loss_of(model, *text, context));
      FETTLE_ASSIGN(const double after, loss_of(smaller, *text, context));
      context.metric("nll_before", before, "nats");
      context.metric("nll", after, "nats");
    }
    return {};
  }

 private:
  static Result<width::Scores> scores_of(const Params& p, fettle::Context& context, const Decoder& model) {
    const DecoderShape dense = shape_of(model.config());
    if (p.score == "random") return width::random_scores(dense, context.seed());
    if (p.score == "weight") return width::weight_scores(model);
    FETTLE_ASSIGN(const Importance importance, importance_of(context, model));
    return width::activation_scores(importance, dense);
  }

  /// The shape of least loss on the text. Each is written as it would be and measured.
  static Result<DecoderShape> best_candidate(const Params& p, fettle::Context& context, const Checkpoint& checkpoint,
                                             const ModelConfig& config, const width::Scores& scores,
                                             const std::vector<DecoderShape>& shapes, const TokenSet& text) {
    const std::string folder = context.scratch() + "/candidate";
    context.info(fmt::format("{:>12} {:>7} {:>7} {:>6} {:>9}", "parameters", "hidden", "ffn", "heads", "loss"));
    std::optional<std::pair<double, DecoderShape>> best;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const DecoderShape& shape = shapes[i];
      std::filesystem::remove_all(folder);
      const KeptParts kept = width::keep(scores, shape_of(config), shape);
      FETTLE_TRY(write_sliced(folder, checkpoint, kept, p.norm_gain));
      FETTLE_ASSIGN(const Decoder candidate, open_model(folder));
      FETTLE_ASSIGN(const double loss, loss_of(candidate, text, context));
      if (!best || loss < best->first) best.emplace(loss, shape);

      const auto parameters = static_cast<std::uint64_t>(candidate.config().parameters());
      context.info(fmt::format("{:>12} {:>7} {:>7} {:>6} {:>9.4f}", grouped(parameters), shape.hidden, shape.ffn,
                               shape.heads, loss));
      const auto x = static_cast<double>(i);
      context.point("candidate.parameters", x, static_cast<double>(parameters));
      context.point("candidate.hidden", x, static_cast<double>(shape.hidden));
      context.point("candidate.ffn", x, static_cast<double>(shape.ffn));
      context.point("candidate.heads", x, static_cast<double>(shape.heads));
      context.point("candidate.nll", x, loss);
      context.progress("candidates", i + 1, shapes.size());
    }
    std::filesystem::remove_all(folder);
    return best->second;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-width", "0.1.0", "Fettle", "Apache-2.0", PruneWidth)
