// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/eval/compare.h"
#include "fettle_kit/eval/measured_text.h"
#include "fettle_kit/eval/metrics_file.h"
#include "fettle_kit/eval/model_cost.h"
#include "fettle_kit/model/foreseen.h"
#include "fettle_kit/model/model_tokenizer.h"

#include <algorithm>
#include <cmath>

namespace {

using fettle::Status;
using namespace fettle::kit;

class EvalCompare {
 public:
  struct Params {
    std::optional<std::int64_t> length;
    std::int64_t windows = 0;
    std::string precision = "f32";
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("eval.compare",
                                       "Measure how far a model has moved from the one it was made from.")
        .epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)  // the C library's logarithm
        .input("candidate", "model", "the model to judge: a Hugging Face checkpoint or a GGUF file")
        .input("reference", "model", "the model it was made from; its tokenizer cuts the text")
        .optional_input("text", "text", "what to predict; or give tokens")
        .optional_input("tokens", "tokens", "what to predict, already cut; or give text", "tokenizer=@reference")
        .output("metrics", "metrics", "metrics.json: every number with its standard error")
        .param("length", &Params::length, "ids a window of text, BOS included; by default the context, at most 512",
               fettle::in_range(2, 1 << 24, "tokens"))
        .param("windows", &Params::windows, "measure at most so many windows, from the start; 0: all",
               fettle::at_least(0))
        .param(
            "precision", &Params::precision,
            "of the factors of matrix products; bf16 is faster where the processor multiplies it, several times with "
            "AMX, 1.5 times with AVX512_BF16, and off by about a thousandth of a nat",
            fettle::one_of({"f32", "bf16"}));
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    FETTLE_TRY(check_family(in, "candidate"));
    FETTLE_TRY(check_family(in, "reference"));
    FETTLE_TRY(check_same_vocabulary(in, "candidate", "reference"));
    FETTLE_TRY(check_measured_text(in, {p.length, p.windows}));
    const ModelCost candidate(in.at("candidate")), reference(in.at("reference"));
    const double tokens = estimated_tokens(in, {p.length, p.windows}, reference.context);
    const auto at_once = tokens_at_once(window_length(in, {p.length, p.windows}, reference.context));
    const double rows = std::min(tokens, static_cast<double>(at_once));
    const auto text = in.find("text");
    const Precision precision = precision_of(p.precision);
    e.memory(candidate.forward_bytes(rows, precision) + reference.forward_bytes(rows, precision) +
             (text ? 8 * text->number("bytes") : 4 * tokens) + 32e6)
        .disk(4096)
        .flops(candidate.flops(tokens) + reference.flops(tokens));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const std::string reference_path = context.inputs.at("reference").path();
    FETTLE_ASSIGN(Weights reference_weights, Weights::open(reference_path));
    FETTLE_ASSIGN(Weights candidate_weights, Weights::open(context.inputs.at("candidate").path()));
    const std::int64_t limit = std::min(reference_weights.config().context, candidate_weights.config().context);
    auto tokenizer = open_model_tokenizer(reference_path);
    const bool has_text = context.inputs.find("text").has_value();
    if (has_text && !tokenizer.ok()) return std::move(tokenizer).error();
    // The vocabulary of a GGUF file yields the same ids as the checkpoint it was made from, but has another digest.
    const bool decides = tokenizer.ok() && (has_text || !reference_weights.from_gguf());
    FETTLE_ASSIGN(const TokenSet windows,
                  measured_windows(context.inputs, {p.length, p.windows}, limit, decides ? &*tokenizer : nullptr));

    const auto bytes = static_cast<double>(candidate_weights.bytes());
    const double ratio = bytes / static_cast<double>(reference_weights.bytes());
    const Precision precision = precision_of(p.precision);
    FETTLE_ASSIGN(const Decoder candidate, Decoder::open(std::move(candidate_weights), precision));
    FETTLE_ASSIGN(const Decoder reference, Decoder::open(std::move(reference_weights), precision));
    Watch watch;
    watch.stop = [&] { return context.cancelled(); };
    watch.progress = [&](std::int64_t done, std::int64_t total) {
      context.progress("windows", static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
    };
    FETTLE_ASSIGN(const Comparison c, compare(candidate, reference, windows, watch));
    return report_metrics(context, context.output("metrics"),
                          {{"ppl", c.ppl},
                           {"reference_ppl", c.reference_ppl},
                           {"delta_nll", c.delta_nll, "nats a token"},
                           {"kl", c.kl, "nats a token"},
                           {"top1", c.top1, "share of tokens"},
                           {"tokens", {static_cast<double>(c.tokens), NAN}, "tokens"},
                           {"bytes", {bytes, NAN}, "bytes"},
                           {"size_ratio", {ratio, NAN}, "of the reference"}});
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-eval-compare", "0.1.0", "Fettle", "Apache-2.0", EvalCompare)
