// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/calibrate/block_linears.h"
#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/calibrate/column_norms.h"
#include "fettle_kit/io/imatrix.h"
#include "fettle_kit/model/gguf_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string_view>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

/// What the linears of one block saw, by GGUF name; those that a file fuses saw the same.
Status add_block(Imatrix& out, std::string_view architecture, std::int64_t layer,
                 const std::array<std::optional<ColumnNorms>, site_count>& seen) {
  for (const BlockLinear& linear : block_linears) {
    const ColumnNorms& norms = *seen[index_of(linear.site)];
    const std::string name = gguf_name(architecture, linear.tensor_name(layer));
    Imatrix::Entry entry{{}, {static_cast<float>(norms.rows())}};
    for (const double sum : norms.sum_of_squares()) {
      if (!std::isfinite(sum))
        return {Code::invalid_argument,
                fmt::format("the inputs of '{}' hold NaN or infinity; repair the model", linear.tensor_name(layer))};
      entry.sums.push_back(static_cast<float>(sum));
    }
    out.entries.emplace(name, std::move(entry));
  }
  return {};
}

class CalibrateImatrix {
 public:
  struct Params {
    std::string dataset;
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("calibrate.imatrix",
                                       "Measure how much each input column of each matrix matters, for quantize.gguf.")
        .epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("docs/reference/gguf.md; the importance matrix of llama.cpp")
        .input("model", "model", "the model to be quantized: a Hugging Face checkpoint or a GGUF file")
        .input("data", "tokens", "text like what the model will read; 128 sequences of 512 are plenty",
               "tokenizer=@model")
        .output("imatrix", "stats", "imatrix.gguf, which quantize.gguf and llama.cpp's tools read")
        .param("dataset", &Params::dataset, "name of the text, for the record in the file");
  }

  static Status estimate(const Params&, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model"), tokens = in.at("data");
    const double hidden = model.number("hidden"), ffn = model.number("ffn"), layers = model.number("layers");
    const double rows = tokens.number("sequences") * tokens.number("length");
    const double blocks = std::max(0.0, model.number("parameters") - model.number("vocab") * hidden);
    e.memory(rows * hidden * 4 + Decoder::forward_bytes(2048, hidden, ffn, hidden, hidden) + 64e6)
        .disk(layers * (6 * hidden + ffn) * 4 + 4096 * layers + 65536)
        .flops(2 * rows * blocks);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(Weights weights, Weights::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const Decoder model, Decoder::open(std::move(weights)));
    FETTLE_ASSIGN(const TokenSet tokens, TokenSet::open(context.inputs.at("data").path()));
    FETTLE_ASSIGN(BlockWalk walk, BlockWalk::start(model, tokens, [&] { return context.cancelled(); }));
    // All others call their linears alike.
    const std::string_view architecture = model.config().family->model_type == "phi3" ? "phi3" : "llama";
    Imatrix out;
    if (!p.dataset.empty()) out.datasets.push_back(p.dataset);
    out.chunks = static_cast<std::uint32_t>(tokens.sequences());
    out.chunk_size = static_cast<std::uint32_t>(tokens.length());
    while (!walk.done()) {
      std::array<std::optional<ColumnNorms>, site_count> seen;
      const BlockObserver sum_squares = [&](Site site, ConstMatrix x) {
        auto& norms = seen[index_of(site)];
        if (!norms) norms.emplace(x.cols);
        norms->add(x);
      };
      FETTLE_TRY(walk.pass(sum_squares, {}));
      FETTLE_TRY(add_block(out, architecture, walk.layer() - 1, seen));
      context.progress("blocks", static_cast<std::uint64_t>(walk.layer()),
                       static_cast<std::uint64_t>(model.config().layers));
    }
    context.metric("tokens", static_cast<double>(walk.tokens()), "tokens");
    context.metric("matrices", static_cast<double>(out.entries.size()));
    return out.save(context.output("imatrix") + "/imatrix.gguf");
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-calibrate-imatrix", "0.1.0", "Fettle", "Apache-2.0", CalibrateImatrix)
