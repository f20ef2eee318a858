// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/train_params.h"

#include "fettle_kit/io/model_attributes.h"
#include "fettle_kit/tensor/dtype.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fettle::kit {

std::int64_t training_steps(const TrainParams& params, std::int64_t sequences) {
  if (params.steps) return *params.steps;
  const double steps = std::ceil(params.epochs * static_cast<double>(sequences) / static_cast<double>(params.batch));
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(steps, 1e15)));
}

NetworkOptions network_options(const TrainParams& params) {
  NetworkOptions options;
  options.precision = params.precision == "bf16" ? Precision::bf16 : Precision::real;
  options.checkpointing = params.checkpointing;
  return options;
}

DType stored_type(const TrainParams& params) {
  return params.dtype == "same" ? DType::bf16 : find_dtype_by_name(params.dtype)->dtype;
}

Result<DType> stored_type(const TrainParams& params, const std::string& folder) {
  if (params.dtype != "same") return stored_type(params);
  FETTLE_ASSIGN(const ModelAttributes attributes, model_attributes(folder));
  for (const auto& [key, value] : attributes)
    if (key == "weights" && (value == "f32" || value == "f16")) return find_dtype_by_name(value)->dtype;
  return DType::bf16;
}

TrainingOptions training_options(const TrainParams& params, const Context& context, std::int64_t sequences,
                                 bool evaluated) {
  TrainingOptions options;
  options.steps = training_steps(params, sequences);
  options.batch = params.batch;
  options.micro_batch = params.micro_batch;
  options.schedule.decay = *parse_decay(params.schedule);  // one of the choices
  options.schedule.peak = params.lr;
  options.schedule.floor = params.min_lr;
  options.schedule.warmup = params.warmup.value_or(std::min<std::int64_t>(100, options.steps / 20));
  options.adamw = {params.beta1, params.beta2, params.epsilon, params.weight_decay};
  options.clip = params.clip;
  if (evaluated) options.evaluate_every = params.evaluate_every.value_or(std::max<std::int64_t>(1, options.steps / 10));
  options.patience = params.patience;
  options.seed = context.seed();
  options.save_every = params.save_every;
  options.folder = context.checkpoint();
  return options;
}

ModelConfig config_of(const Input& model) {
  const auto whole = [&](const char* key, double otherwise) {
    return static_cast<std::int64_t>(std::clamp(model.number(key, otherwise), 0.0, 1e9));
  };
  ModelConfig c;
  c.family = find_family(model.attribute("architecture"));
  if (c.family == nullptr) c.family = find_family("llama");
  c.hidden = whole("hidden", 0);
  c.intermediate = whole("ffn", 0);
  c.layers = whole("layers", 0);
  c.heads = std::max<std::int64_t>(1, whole("heads", 1));
  c.kv_heads = whole("kv_heads", static_cast<double>(c.heads));
  c.vocab = whole("vocab", 0);
  c.context = whole("context", 512);
  c.tied = model.attribute("tied") == "true";
  c.head_dim = c.hidden / c.heads;
  // Heads may be wider or narrower than hidden / heads; the number of parameters tells.
  const double a_column =
      2.0 * static_cast<double>(c.layers) * static_cast<double>(c.hidden) * static_cast<double>(c.heads + c.kv_heads);
  if (const double stored = model.number("parameters"); stored > 0 && a_column > 0) {
    const double more = std::round((stored - static_cast<double>(c.parameters())) / a_column);
    c.head_dim = std::clamp<std::int64_t>(c.head_dim + static_cast<std::int64_t>(more), 1, 1024);
  }
  return c;
}

TrainingCost training_cost(const ModelConfig& model, const TrainParams& params, const Input& data,
                           const std::optional<Input>& held_out) {
  const auto parameters = static_cast<double>(model.parameters());
  const double length = data.number("length", 512), sequences = data.number("sequences");
  const auto rows = static_cast<double>(std::min(params.micro_batch, params.batch)) * length;
  const double held_tokens = held_out ? held_out->number("sequences") * held_out->number("length", length) : 0;
  const auto steps = static_cast<double>(training_steps(params, static_cast<std::int64_t>(sequences)));
  // Moments; the token sets; one tensor at a time on its way to a file; the program, its libraries, and mapped files.
  const double widest =
      static_cast<double>(std::max(model.vocab, model.intermediate)) * static_cast<double>(model.hidden);
  TrainingCost cost;
  cost.bytes = Network::bytes(model, rows, network_options(params)) + 8 * parameters +
               4 * (sequences * length + held_tokens) + 6 * widest + 32e6;
  cost.disk = (12 + 2 * 4 + 4) * parameters;
  const double looks = held_out ? 11 : 0;
  const double passes = params.checkpointing ? 4 : 3;
  cost.flops = 2 * parameters * (passes * steps * static_cast<double>(params.batch) * length + looks * held_tokens);
  return cost;
}

void report(const Context& context, const Trained& trained) {
  context.metric("loss", trained.last_loss, "nats a token");
  context.metric("steps", static_cast<double>(trained.steps), "steps");
  context.metric("tokens", static_cast<double>(trained.tokens), "tokens");
  if (std::isnan(trained.held_out_best)) return;
  context.metric("held_out_loss", trained.held_out_best, "nats a token");
  context.metric("held_out_first", trained.held_out_first, "nats a token");
  context.metric("best_step", static_cast<double>(trained.best_step), "steps");
  if (trained.stopped_early)
    context.info(
        fmt::format("stopped after {} steps: the held-out loss was best after {}", trained.steps, trained.best_step));
  if (trained.best_step == 0) context.warn("training did not lower the held-out loss: the model is returned as it was");
}

}  // namespace fettle::kit
