// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/compress/pruning.h"
#include "fettle_kit/compress/score_histogram.h"

#include "magnitude.h"

#include <fmt/format.h>

#include <algorithm>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

class PruneMagnitude {
 public:
  struct Params : PruneParams {};

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.magnitude", "Zero the weights of smallest absolute value.");
    d.epoch(1)
        .version("1.0")
        .reference("Han et al. 2015, arXiv:1506.02626, section 3")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .output("model", "model", "the checkpoint with exact zeros; same shapes, same types")
        .output("mask", "mask", "which weights were kept");
    return with_prune_params(d);
  }

  static Status validate(const Params& p) { return check_prune_params(p); }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    // One matrix at a time: as f32 scores, as stored bytes, and its mask.
    const double widest = std::max(model.number("hidden") * std::max(model.number("ffn"), model.number("hidden")), 1e6);
    e.memory(widest * (4 + 4 + 0.125) + 64e6)
        .disk(model.number("bytes") * 17 / 16)
        .like("model", model)
        .attribute("model", "sparsity", sparsity_text(p));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto targets, choose_matrices(model, p));
    std::vector<MaskWriter::Shape> shapes;
    for (const PruneTarget& t : targets) shapes.push_back({t.tensor->name, t.tensor->rows(), t.tensor->cols()});
    FETTLE_ASSIGN(MaskWriter masks, MaskWriter::create(context.output("mask"), shapes));

    std::vector<TensorSpec> specs;
    for (const TensorView* t : model.tensors()) specs.push_back({t->name, t->dtype, t->shape});
    std::size_t next = 0;  // into targets, which are in the order of the tensors
    PruneCounts counts;
    ScoreHistograms histograms;
    std::vector<float> scores;
    std::vector<std::byte> bytes;
    const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
      if (context.cancelled()) return fettle::cancelled_status();
      const TensorView& t = *model.find(spec.name);
      counts.add(t);
      if (next == targets.size() || targets[next].tensor != &t) return sink(t.bytes);
      scores.resize(static_cast<std::size_t>(t.elements()));
      info(t.dtype).to_f32(t.bytes.data(), scores.data(), scores.size());
      const MutMatrix view(scores.data(), t.rows(), t.cols());
      if (!all_numbers(view))
        return {Code::invalid_argument,
                fmt::format("tensor '{}' holds NaN, which has no magnitude; repair the model or "
                            "put the tensor into 'ignore'",
                            t.name)};
      magnitude::score(view);
      const SparsityTarget& sparsity = targets[next].sparsity;
      histograms.of(t.name).add(view, sparsity.pattern ? Group::row : sparsity.group);
      const Mask mask = mask_of(view, sparsity);
      FETTLE_TRY(masks.add(t.name, mask));
      bytes.assign(t.bytes.begin(), t.bytes.end());
      zero_pruned(mask, bytes, static_cast<std::size_t>(info(t.dtype).block_bytes));
      model.drop(t);
      counts.add(mask);
      context.progress("matrices", ++next, targets.size());
      return sink(bytes);
    };
    CheckpointWriterOptions options;
    options.metadata["fettle.sparsity"] = sparsity_text(p);
    FETTLE_TRY(write_checkpoint(context.output("model"), model.config(), specs, source, model.folder(), options));
    FETTLE_TRY(masks.finish());
    counts.report(context);
    histograms.report(context);
    context.metric("matrices", static_cast<double>(targets.size()));
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-magnitude", "0.1.0", "Fettle", "Apache-2.0", PruneMagnitude)
