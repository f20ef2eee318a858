// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/eval/model_cost.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/model/foreseen.h"
#include "fettle_kit/model/generate.h"
#include "fettle_kit/model/model_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

class EvalGenerate {
 public:
  struct Params {
    std::vector<std::string> prompts;
    std::int64_t max_tokens = 64;
    double temperature = 0;
    std::int64_t top_k = 0;
    double top_p = 1;
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("eval.generate", "Let a model continue some prompts.")
        .epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)  // the C library's exponential, where it samples
        .input("model", "model", "the model to hear: a Hugging Face checkpoint or a GGUF file")
        .optional_input("tokenizer", "model", "a checkpoint whose tokenizer to use, if not the model's own")
        .output("text", "file", "generation.txt: each prompt with its continuation")
        .param("prompts", &Params::prompts, fettle::required, "texts to continue")
        .param("max_tokens", &Params::max_tokens, "length of a continuation; it may end sooner",
               fettle::in_range(1, 1 << 20, "tokens"))
        .param("temperature", &Params::temperature,
               "0: always the likeliest token; 1: as the model predicts; more: wilder", fettle::in_range(0, 100))
        .param("top_k", &Params::top_k, "sample from the k likeliest tokens only; 0: all", fettle::at_least(0))
        .param("top_p", &Params::top_p, "sample from the fewest likeliest tokens that reach this probability",
               fettle::in_range(0, 1));
  }

  static Status validate(const Params& p) {
    if (p.prompts.empty()) return {Code::invalid_argument, "give at least one prompt", "prompts"};
    if (p.temperature == 0 && (p.top_k > 0 || p.top_p < 1))
      return {Code::invalid_argument,
              "'top_k' and 'top_p' choose among samples, but 'temperature' is 0, which takes no samples",
              p.top_k > 0 ? "top_k" : "top_p"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    FETTLE_TRY(check_family(in, "model"));
    const ModelCost cost(in.at("model"));
    double longest = 0, all = 0;  // tokens, at worst one a byte
    for (const std::string& prompt : p.prompts) {
      const double tokens = static_cast<double>(prompt.size()) + static_cast<double>(p.max_tokens);
      longest = std::max(longest, tokens);
      all += tokens;
    }
    longest = std::min(longest, cost.context);
    e.memory(cost.forward_bytes(std::min(longest, 512.0)) + cost.cache_bytes(longest) + 64e6)
        .disk(16 * all)
        .flops(cost.flops(all));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const std::string path = context.inputs.at("model").path();
    FETTLE_ASSIGN(Weights weights, Weights::open(path));
    FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
    const auto other = context.inputs.find("tokenizer");
    FETTLE_ASSIGN(const Tokenizer tokenizer, open_model_tokenizer(other ? other->path() : path));

    const Sampling sampling{p.temperature, p.top_k, p.top_p, context.seed()};
    std::string written;
    std::uint64_t made = 0;
    for (std::size_t i = 0; i < p.prompts.size(); ++i) {
      std::vector<std::int32_t> ids = tokenizer.encode(p.prompts[i], true);
      std::uint64_t tokens = 0;
      auto continued = generate(
          model, ids, p.max_tokens, sampling, i, [&] { return context.cancelled(); },
          [&](std::int32_t) { context.progress("tokens", ++tokens, static_cast<std::uint64_t>(p.max_tokens)); });
      if (!continued.ok()) return std::move(continued).error().with_context(fmt::format("prompt {}", i + 1));
      ids.insert(ids.end(), continued->begin(), continued->end());
      made += tokens;
      if (!written.empty()) written += "\n----\n\n";
      written += tokenizer.decode(ids, true) + "\n";
    }
    context.metric("tokens", static_cast<double>(made), "tokens");
    return write_text_file(context.output("text") + "/generation.txt", written);
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-eval-generate", "0.1.0", "Fettle", "Apache-2.0", EvalGenerate)
