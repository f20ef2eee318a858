// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/io/checkpoint.h"

#include "exports.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace {

using fettle::Status;
using namespace fettle::kit;

class DistillQat {
 public:
  using Params = distill_qat::Params;

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("distill.qat",
                                  "Train a model so that it loses little when it is quantized (QAT, QAD).");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference(
            "straight-through: Bengio et al. 2013, arXiv:1308.3432; data-free distillation: Liu et al. 2023, "
            "arXiv:2305.17888");
    with_distillation(d)
        .param("scheme", &Params::scheme,
               "what the model will be quantized with: gguf (quantize.gguf), integer (quantize.rtn), fp8, nvfp4, mxfp4 "
               "(the techniques of those names), none (16 bits: ordinary training)",
               fettle::one_of({"gguf", "integer", "fp8", "nvfp4", "mxfp4", "none"}))
        .param("type", &Params::type, "of scheme gguf: the type of the file, by default Q4_0")
        .param("scales", &Params::scales, "of nvfp4 and mxfp4: as those techniques have it, and with their defaults")
        .param("learn_steps", &Params::learn_steps,
               "of scheme integer, symmetric: learn the steps of groups or rows beside the weights (LSQ); the model "
               "holds weights cut to the learned range, in which quantize.rtn finds the same steps");
    return with_target_params(with_grid_params(d));
  }

  static Status validate(const Params& p) { return distill_qat::check_scheme(p); }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    FETTLE_TRY(check_distillation(p, in));
    const fettle::Input student = in.at("student");
    FETTLE_TRY(distill_qat::check_shapes(p, student));
    estimate_distillation(p, in, e, p.scheme == "none" ? 0 : bytes_beside(p, student));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    const std::string folder = context.inputs.at("student").path();
    FETTLE_ASSIGN(const auto distillation, Distillation::open(p, context));
    FETTLE_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder));
    FETTLE_ASSIGN(const DType stored, stored_type(p, folder));
    std::vector<std::string> warnings;
    FETTLE_ASSIGN(const auto exports, plan_exports(p, checkpoint, distillation->student(), stored, warnings));
    for (const std::string& warning : warnings) context.warn(warning);
    FETTLE_ASSIGN(const auto ranges, show_exports(distillation->student(), exports, stored));
    context.metric("quantized_tensors",
                   static_cast<double>(std::ranges::count(exports, true, &distill_qat::Export::quantized)));

    FETTLE_ASSIGN(const double before, distillation->held_out_kl());
    std::vector<TrainedTensor> learned;
    for (const auto& [name, range] : ranges) learned.push_back(range->tensor(name));
    const auto cut = [&] {
      for (const auto& [name, range] : ranges) {
        const Array& master = distillation->student().find(name)->value;
        distillation->backend().host_view(master, Access::read_write, [&](MutMatrix w) { range->apply(w, master); });
      }
    };
    FETTLE_TRY(distillation->run(identity_of(p), nullptr, {learned, cut}));
    FETTLE_ASSIGN(const double after, distillation->held_out_kl());
    if (!std::isnan(before)) {
      context.metric("ptq_kl", before, "nats a token");
      context.metric("kl", after, "nats a token");
    }
    return {};
  }

 private:
  /// Memory for what forward uses instead of the masters, and for one matrix on its way there.
  static double bytes_beside(const Params& p, const fettle::Input& student) {
    const double hidden = student.number("hidden"), vocab = student.number("vocab");
    const double widest = hidden * std::max(vocab, student.number("ffn"));
    const bool tied = student.attribute("tied") == "true";
    // In bf16 the network has a copy of all that is multiplied anyway.
    return 4 * (p.precision == "f32" ? student.number("parameters") : tied ? 0 : vocab * hidden) + 13 * widest;
  }

  /// All that decides over the bits beside what every distillation has.
  static std::string identity_of(const Params& p) {
    std::string text = fmt::format("distill.qat {} {} {}", p.scheme, p.type.value_or(""), p.dtype);
    text += fmt::format(" {} {} {}", p.scales.value_or(""), p.targets, p.ignore);
    if (p.scheme == "integer")
      text += fmt::format(" {} {} {} {} {} {} {} {}", p.bits, p.symmetric, p.sharing, p.group_size, p.bits_for,
                          p.search.value_or(0), p.format, p.learn_steps);
    return text;
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-distill-qat", "0.1.0", "Fettle", "Apache-2.0", DistillQat)
