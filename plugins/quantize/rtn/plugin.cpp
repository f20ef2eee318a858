// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/compress/quantization.h"

#include <algorithm>
#include <vector>

namespace {

using fettle::Status;
using namespace fettle::kit;

class QuantizeRtn {
 public:
  struct Params : IntegerParams {};

  static fettle::Description<Params> describe() {
    fettle::Description<Params> d("quantize.rtn", "Round every weight to the nearest point of an integer grid.");
    d.epoch(1)
        .version("1.0")
        .input("model", "model", "a Hugging Face checkpoint with plain weights",
               "layout=hf; weights=f32|f16|bf16|mixed")
        .output("model", "model", "a quantized checkpoint for transformers and vLLM");
    return with_integer_params(d);
  }

  static Status validate(const Params& p) { return check_integer_params(p); }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    const fettle::Input model = in.at("model");
    const double widest = std::max(model.number("ffn"), model.number("vocab")) * model.number("hidden");
    e.memory(64e6 + 8 * widest)  // f32, codes, packed words and their parts of the largest matrix
        .disk(model.number("bytes"))
        .like("model", model)
        .attribute("model", "weights", weights_attribute(p));
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Checkpoint model, Checkpoint::open(context.inputs.at("model").path()));
    FETTLE_ASSIGN(const auto targets, integer_targets(model, p));
    warn_of_unlike(model, targets, context);
    FETTLE_ASSIGN(IntegerWriter writer, IntegerWriter::create(context.output("model"), model, targets, p));
    double sum = 0, worst = 0;
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (context.cancelled()) return fettle::cancelled_status();
      const TensorView& t = *targets[i].tensor;
      FETTLE_ASSIGN(const std::vector<float> weights, finite_weights(t));
      const ConstMatrix w(weights.data(), t.rows(), t.cols());
      const CodedMatrix coded = round_to_grid(w, targets[i].scheme);
      FETTLE_TRY(writer.put(targets[i], coded));
      model.drop(t);
      const double error = relative_error(w, coded);
      context.point("weight_error", static_cast<double>(i), error);
      sum += error;
      worst = std::max(worst, error);
      context.progress("matrices", i + 1, targets.size());
    }
    FETTLE_TRY(writer.finish());
    context.metric("matrices", static_cast<double>(targets.size()));
    context.metric("weight_error", sum / static_cast<double>(targets.size()));
    context.metric("worst_weight_error", worst);
    return {};
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-quantize-rtn", "0.1.0", "Fettle", "Apache-2.0", QuantizeRtn)
