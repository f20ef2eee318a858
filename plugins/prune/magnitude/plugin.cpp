// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/compress/targets.h"
#include "fettle_kit/io/checkpoint.h"

#include "magnitude.h"

#include <fmt/format.h>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

class PruneMagnitude {
 public:
  struct Params {
    std::optional<double> share;
    std::optional<std::string> pattern;
    std::string group = "matrix";
    std::vector<std::string> targets{"*.layers.*_proj.weight"};
    std::vector<std::string> ignore;
    std::vector<std::pair<std::string, double>> shares;
  };

  static fettle::Description<Params> describe() {
    return fettle::Description<Params>("prune.magnitude", "Zero the weights of smallest absolute value.")
        .epoch(1)
        .version("1.0")
        .reference("Han et al. 2015, arXiv:1506.02626, section 3")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .output("model", "model", "the checkpoint with exact zeros; same shapes, same types")
        .output("mask", "mask", "which weights were kept")
        .param("share", &Params::share, "share of the weights to zero; this or 'pattern'", fettle::in_range(0, 1))
        .param("pattern", &Params::pattern, "N:M, for example 2:4: keep N of every M weights along the input dimension")
        .param("group", &Params::group, "weights that compete with one another, for 'share'",
               fettle::one_of({"matrix", "row"}))
        .param("targets", &Params::targets, "names of the matrices to prune; '*' matches anything")
        .param("ignore", &Params::ignore, "names to leave alone, even if 'targets' matches them")
        .param("shares", &Params::shares, "another share for the matrices that match; the first match counts",
               fettle::in_range(0, 1));
  }

  static Status validate(const Params& p) {
    if (p.share.has_value() == p.pattern.has_value())
      return {Code::invalid_argument, "give one of 'share' and 'pattern', for example share: 0.5 or pattern: \"2:4\"",
              p.share ? "pattern" : "share"};
    if (p.pattern && !p.shares.empty())
      return {Code::invalid_argument, "'shares' goes with 'share'; 'pattern' fixes the share of every matrix",
              "shares"};
    if (p.pattern) FETTLE_TRY(parse_n_of_m(*p.pattern));
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    // One matrix at a time: as f32 scores, as stored bytes, and its mask.
    const double widest = std::max(model.number("hidden") * std::max(model.number("ffn"), model.number("hidden")), 1e6);
    e.memory(widest * (4 + 4 + 0.125) + 64e6)
        .disk(model.number("bytes") * 17 / 16)
        .like("model", model)
        .attribute("model", "sparsity", p.pattern ? *p.pattern : fettle::detail::shortest(p.share.value_or(0)));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto matrices, chosen(p, model));
    std::vector<MaskWriter::Shape> shapes;
    for (const auto& [tensor, target] : matrices) shapes.push_back({tensor->name, tensor->rows(), tensor->cols()});
    FETTLE_ASSIGN(MaskWriter masks, MaskWriter::create(context.output("mask"), shapes));

    std::vector<TensorSpec> specs;
    for (const TensorView* t : model.tensors()) specs.push_back({t->name, t->dtype, t->shape});
    std::size_t next = 0;  // into matrices, which are in the order of the tensors
    std::int64_t pruned = 0, targeted = 0, all = 0;
    std::vector<float> scores;
    std::vector<std::byte> bytes;
    const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
      if (context.cancelled()) return fettle::cancelled_status();
      const TensorView& t = *model.find(spec.name);
      all += t.elements();
      if (next == matrices.size() || matrices[next].first != &t) return sink(t.bytes);
      scores.resize(static_cast<std::size_t>(t.elements()));
      info(t.dtype).to_f32(t.bytes.data(), scores.data(), scores.size());
      const MutMatrix view(scores.data(), t.rows(), t.cols());
      if (!magnitude::all_numbers(view))
        return {Code::invalid_argument,
                fmt::format("tensor '{}' holds NaN, which has no magnitude; repair the model or "
                            "put the tensor into 'ignore'",
                            t.name)};
      const Mask mask = magnitude::mask_of(view, matrices[next].second);
      FETTLE_TRY(masks.add(t.name, mask));
      bytes.assign(t.bytes.begin(), t.bytes.end());
      magnitude::apply(mask, bytes, static_cast<std::size_t>(info(t.dtype).block_bytes));
      model.drop(t);
      pruned += mask.count_pruned();
      targeted += t.elements();
      context.progress("matrices", ++next, matrices.size());
      return sink(bytes);
    };
    CheckpointWriterOptions options;
    options.metadata["fettle.sparsity"] = p.pattern ? *p.pattern : fettle::detail::shortest(*p.share);
    FETTLE_TRY(write_checkpoint(context.output("model"), model.config(), specs, source, model.folder(), options));
    FETTLE_TRY(masks.finish());
    context.metric("sparsity", static_cast<double>(pruned) / static_cast<double>(targeted));
    context.metric("sparsity_of_model", static_cast<double>(pruned) / static_cast<double>(all));
    context.metric("pruned", static_cast<double>(pruned), "weights");
    context.metric("matrices", static_cast<double>(matrices.size()));
    return {};
  }

 private:
  using Chosen = std::vector<std::pair<const TensorView*, magnitude::Target>>;

  /// Every matrix to prune and how much, in the order of the tensors; all that could fail later is checked here.
  static fettle::Result<Chosen> chosen(const Params& p, const Checkpoint& model) {
    magnitude::Target target;
    target.group = p.group == "row" ? Group::row : Group::matrix;
    if (p.pattern) {
      FETTLE_ASSIGN(target.pattern, parse_n_of_m(*p.pattern));
    }
    std::vector<std::string> share_globs;
    for (const auto& [glob, share] : p.shares) share_globs.push_back(glob);
    Chosen matrices;
    for (const TensorView* t : model.tensors()) {
      if (first_match(p.targets, t->name) < 0 || first_match(p.ignore, t->name) >= 0) continue;
      if (t->shape.size() != 2 || !is_float(t->dtype) || info(t->dtype).to_f32 == nullptr)
        return Status(Code::invalid_argument,
                      fmt::format("tensor '{}' is {} with {} dimensions; only matrices of plain floats can be pruned: "
                                  "narrow 'targets' or put it into 'ignore'",
                                  t->name, info(t->dtype).name, t->shape.size()),
                      "targets");
      if (target.pattern && t->cols() % target.pattern->m != 0)
        return Status(
            Code::invalid_argument,
            fmt::format("tensor '{}' has rows of {} weights, which groups of {} do not divide; put it into 'ignore' "
                        "or choose another pattern",
                        t->name, t->cols(), target.pattern->m),
            "pattern");
      const int special = first_match(share_globs, t->name);
      target.share = special >= 0 ? p.shares[static_cast<std::size_t>(special)].second : p.share.value_or(0);
      matrices.emplace_back(t, target);
    }
    if (matrices.empty())
      return Status(Code::invalid_argument,
                    fmt::format("no tensor of the model matches 'targets'; its names look like '{}'",
                                model.tensors().empty() ? "" : model.tensors().back()->name),
                    "targets");
    return matrices;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-prune-magnitude", "0.1.0", "Fettle", "Apache-2.0", PruneMagnitude)
