// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/distill/hidden_loss.h"

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace {

using fettle::Code;
using fettle::Status;
using namespace fettle::kit;

class DistillHidden {
 public:
  struct Params : DistillParams {
    std::string distance = "mse";
    std::string projection = "identity";
    std::vector<std::pair<std::string, std::int64_t>> layers;
    double weight = 1;
  };

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("distill.hidden",
                                  "Train a model to predict and to represent a text as a larger one does.");
    d.epoch(1)
        .version("1.0")
        .determinism(FETTLE_ISA)
        .reference("Sun et al. 2019, arXiv:1908.09355; Jiao et al. 2020, arXiv:1909.10351");
    return with_distillation(d)
        .param(
            "distance", &Params::distance,
            "between the residual streams: mse, the mean squared difference of a channel; cosine, 1 - cosine of a row",
            fettle::one_of({"mse", "cosine"}))
        .param("projection", &Params::projection,
               "of the student's stream before it is compared; learned: a matrix for each pair, given up afterwards",
               fettle::one_of({"identity", "learned"}))
        .param("layers", &Params::layers,
               "student layer: teacher layer, counted from 1 after the first block, 0 is the embedding; by default "
               "evenly, the last with the last",
               fettle::at_least(0))
        .param("weight", &Params::weight, "of the mean over the pairs, added to the loss of the logits",
               fettle::at_least(0));
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const auto teacher = in.find("teacher");
    FETTLE_TRY(teacher ? Status() : nobody());
    FETTLE_TRY(check_distillation(p, in));
    const double own = in.at("student").number("hidden"), others = teacher->number("hidden");
    if (own > 0 && others > 0) FETTLE_TRY(check_widths(p, own, others));
    estimate_distillation(p, in, e);
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_TRY(context.inputs.find("teacher") ? Status() : nobody());
    FETTLE_ASSIGN(const auto distillation, Distillation::open(p, context));
    Network &student = distillation->student(), &teacher = distillation->live_teacher()->network();
    FETTLE_TRY(
        check_widths(p, static_cast<double>(student.config().hidden), static_cast<double>(teacher.config().hidden)));
    HiddenLossOptions options;
    options.cosine = p.distance == "cosine";
    options.learned = p.projection == "learned";
    options.weight = p.weight;
    options.seed = context.seed();
    options.layers = uniform_layers(student.config().layers, teacher.config().layers);
    if (!p.layers.empty()) {
      FETTLE_ASSIGN(options.layers, parse_layers(p.layers, student.config().layers, teacher.config().layers));
    }
    std::string identity = fmt::format("distill.hidden {} {} {}", p.distance, p.projection, p.weight);
    for (const LayerPair& pair : options.layers) identity += fmt::format(" {}:{}", pair.student, pair.teacher);
    HiddenLoss hidden(student, teacher, options);
    FETTLE_TRY(distillation->run(identity, &hidden));
    if (!std::isnan(hidden.last_step())) context.metric("hidden_loss", hidden.last_step());
    return {};
  }

 private:
  static Status nobody() {
    return {Code::invalid_argument, "connect port 'teacher': targets do not hold what lies inside it", "teacher"};
  }
  static Status check_widths(const Params& p, double student, double teacher) {
    if (p.projection == "learned" || student == teacher) return {};
    return {Code::invalid_argument,
            fmt::format("the student is {} wide, the teacher {}, so their streams cannot be compared as they are; use "
                        "'learned'",
                        student, teacher),
            "projection"};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-distill-hidden", "0.1.0", "Fettle", "Apache-2.0", DistillHidden)
