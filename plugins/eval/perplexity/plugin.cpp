// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/eval/measured_text.h"
#include "fettle_kit/eval/metrics_file.h"
#include "fettle_kit/eval/model_cost.h"
#include "fettle_kit/eval/perplexity.h"
#include "fettle_kit/model/foreseen.h"
#include "fettle_kit/model/model_tokenizer.h"

#include <algorithm>
#include <cmath>

namespace {

using fettle::Status;
using namespace fettle::kit;

class EvalPerplexity {
 public:
  struct Params {
    std::optional<std::int64_t> length;
    std::int64_t windows = 0;
    std::string precision = "f32";
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("eval.perplexity", "Measure how well a model predicts a text.")
        .epoch(2)
        .version("1.0")
        .determinism(FETTLE_ISA)  // the C library's logarithm
        .input("model", "model", "the model to measure: a Hugging Face checkpoint or a GGUF file")
        .optional_input("text", "text", "what to predict; or give tokens")
        .optional_input("tokens", "tokens", "what to predict, already cut; or give text", "tokenizer=@model")
        .optional_input("tokenizer", "model", "a checkpoint whose tokenizer cuts the text, if not the model's own")
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
    FETTLE_TRY(check_family(in, "model"));
    FETTLE_TRY(check_measured_text(in, {p.length, p.windows}));
    const ModelCost cost(in.at("model"));
    const double tokens = estimated_tokens(in, {p.length, p.windows}, cost.context);
    const auto text = in.find("text");
    const double rows =
        std::min(tokens, double(tokens_at_once(window_length(in, {p.length, p.windows}, cost.context))));
    // A text is held with its ids, and once more while it is cut into words: eight times its bytes is enough.
    e.memory(cost.forward_bytes(rows, precision_of(p.precision)) + (text ? 8 * text->number("bytes") : 8 * tokens) +
             8e6)
        .disk(4096)
        .flops(cost.flops(tokens));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const std::string path = context.inputs.at("model").path();
    FETTLE_ASSIGN(Weights weights, Weights::open(path));
    const auto tokenizer_port = context.inputs.find("tokenizer");
    auto tokenizer = open_model_tokenizer(tokenizer_port ? tokenizer_port->path() : path);
    const bool has_text = context.inputs.find("text").has_value();
    if (has_text && !tokenizer.ok()) return std::move(tokenizer).error();
    // The vocabulary of a GGUF file yields the same ids as the checkpoint it was made from, but has another digest.
    const bool decides = tokenizer.ok() && (has_text || tokenizer_port || !weights.from_gguf());
    FETTLE_ASSIGN(const TokenSet windows, measured_windows(context.inputs, {p.length, p.windows},
                                                           weights.config().context, decides ? &*tokenizer : nullptr));
    const Precision precision = precision_of(p.precision);
    FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights), precision));
    Watch watch;
    watch.stop = [&] { return context.cancelled(); };
    watch.progress = [&](std::int64_t done, std::int64_t total) {
      context.progress("windows", static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total));
    };
    FETTLE_ASSIGN(const Perplexity result, perplexity(model, windows, tokenizer.ok() ? &*tokenizer : nullptr, watch));
    return report_metrics(context, context.output("metrics"),
                          {{"ppl", result.ppl},
                           {"nll", result.nll, "nats a token"},
                           {"bits_per_byte", result.bits_per_byte, "bits"},
                           {"confidence", result.confidence},
                           {"tokens", {static_cast<double>(result.tokens), NAN}, "tokens"},
                           {"windows", {static_cast<double>(result.windows), NAN}, "windows"}});
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-eval-perplexity", "0.1.0", "Fettle", "Apache-2.0", EvalPerplexity)
