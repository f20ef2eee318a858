// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/compress/pruning.h"

#include <algorithm>

namespace {

using fettle::Status;
using namespace fettle::kit;

class PruneApply {
 public:
  struct Params {};

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("prune.apply", "Zero the weights that a mask prunes.");
    return d.epoch(1)
        .version("1.0")
        .input("model", "model", "a Hugging Face checkpoint with plain weights, of the shapes the mask was made for",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .input("mask", "mask", "which weights stay")
        .output("model", "model", "the checkpoint with exact zeros; same shapes, same types");
  }

  static Status estimate(const Params&, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    const double widest = std::max(model.number("hidden") * std::max(model.number("ffn"), model.number("hidden")), 1e6);
    // All masks, a bit a weight, and one matrix as stored.
    e.memory(model.number("parameters") / 8 + widest * 4 + 64e6).disk(model.number("bytes")).like("model", model);
    return {};
  }

  static Status run(const Params&, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto masks, read_masks(context.inputs.at("mask").path()));
    FETTLE_ASSIGN(const auto targets, masked_matrices(model, masks));
    std::vector<TensorSpec> specs;
    for (const TensorView* t : model.tensors()) specs.push_back({t->name, t->dtype, t->shape});
    std::uint64_t done = 0;
    PruneCounts counts;
    std::int64_t changed = 0;
    std::vector<std::byte> bytes;
    const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
      if (context.cancelled()) return fettle::cancelled_status();
      const TensorView& t = *model.find(spec.name);
      counts.add(t);
      const auto mask = masks.find(spec.name);
      if (mask == masks.end()) return sink(t.bytes);
      const auto element = static_cast<std::size_t>(info(t.dtype).block_bytes);
      bytes.assign(t.bytes.begin(), t.bytes.end());
      zero_pruned(mask->second, bytes, element);
      for (std::size_t i = 0; i < bytes.size(); i += element)
        changed += !std::equal(bytes.begin() + static_cast<std::ptrdiff_t>(i),
                               bytes.begin() + static_cast<std::ptrdiff_t>(i + element),
                               t.bytes.begin() + static_cast<std::ptrdiff_t>(i));
      model.drop(t);
      counts.add(mask->second);
      context.progress("matrices", ++done, targets.size());
      return sink(bytes);
    };
    CheckpointWriterOptions options;
    options.metadata["fettle.sparsity"] = sparsity_text(masks);
    FETTLE_TRY(write_checkpoint(context.output("model"), model.config(), specs, source, model.folder(), options));
    counts.report(context);
    context.metric("changed", static_cast<double>(changed), "weights");
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-apply", "0.1.0", "Fettle", "Apache-2.0", PruneApply)
