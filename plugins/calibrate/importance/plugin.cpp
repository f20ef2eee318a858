// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/importance.h"
#include "fettle_kit/compress/score_histogram.h"

#include <cstdint>
#include <vector>

namespace {

using fettle::Status;
using namespace fettle::kit;

/// Each row's scores beside their mean.
void report_histogram(const fettle::Context& context, const char* series, ConstMatrix scores) {
  ScoreHistogram histogram;
  histogram.add(scores, Group::row);
  histogram.report(context, series);
}

class CalibrateImportance {
 public:
  using Params = fettle::NoParams;

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("calibrate.importance",
                                       "Score channels, heads and blocks by how much text uses them.")
        .epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Muralidharan et al. 2024, arXiv:2407.14679, section 2.2; Men et al. 2024, arXiv:2403.03853")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .input("calibration", "tokens", "text like what the model will read; 1,024 sequences in the paper",
               "tokenizer=@model")
        .output("importance", "stats", "scores for prune.width and prune.depth");
  }

  static Status estimate(const Params&, const fettle::Inputs& in, fettle::Estimate& e) {
    FETTLE_TRY(check_importance_inputs(in));
    const fettle::Input model = in.at("model"), tokens = in.at("calibration");
    for (const char* key : {"architecture", "layers", "hidden", "ffn", "heads", "kv_heads"})
      if (const auto value = model.attribute(key); !value.empty()) e.attribute("importance", key, std::string(value));
    if (!model.digest().empty()) e.attribute("importance", "model", std::string(model.digest()));
    e.memory(importance_bytes(in) + 64e6)
        .disk(4 * model.number("layers") * (model.number("ffn") + 2 * model.number("hidden")) + 1e5)
        .flops(2 * tokens.number("sequences") * tokens.number("length") * model.number("parameters"));
    return {};
  }

  static Status run(const Params&, fettle::Context& context) {
    FETTLE_ASSIGN(auto weights, Weights::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
    FETTLE_ASSIGN(const Importance importance, importance_of(context, model));
    report_histogram(context, "ffn.histogram", importance.ffn);
    report_histogram(context, "heads.histogram", importance.heads);
    const std::vector<float> hidden = importance.hidden();
    report_histogram(context, "hidden.histogram", {hidden.data(), 1, static_cast<std::int64_t>(hidden.size())});
    for (std::size_t i = 0; i < importance.influence.size(); ++i)
      context.point("influence", static_cast<double>(i), static_cast<double>(importance.influence[i]));
    context.metric("calibration_tokens", static_cast<double>(importance.sequences * importance.length), "tokens");
    return importance.save(context.output("importance"));
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-calibrate-importance", "0.1.0", "Fettle", "Apache-2.0", CalibrateImportance)
