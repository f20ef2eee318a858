// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/technique.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/train/training.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fettle::kit {

/// Parameters of the techniques that train a model. A technique's own struct derives from it and sets other defaults in
/// its constructor.
struct TrainParams {
  std::optional<std::int64_t> steps;
  double epochs = 1;
  std::int64_t batch = 32, micro_batch = 8;
  double lr = 1e-3, min_lr = 0;
  std::string schedule = "cosine";
  std::optional<std::int64_t> warmup;
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, clip = 1;
  std::optional<std::int64_t> evaluate_every;
  std::int64_t patience = 0;
  std::vector<std::string> frozen;
  std::string precision = "f32";
  bool checkpointing = false;
  std::string dtype = "bf16";
  std::int64_t save_every = 0;
};

/// Declares them.
template <class Params>
Description<Params>& with_train_params(Description<Params>& description) {
  const auto own = []<class T>(T TrainParams::*member) { return static_cast<T Params::*>(member); };
  return description
      .param("steps", own(&TrainParams::steps), "steps of the optimizer; by default as many as `epochs` take",
             at_least(1))
      .param("epochs", own(&TrainParams::epochs), "passes over the data, where `steps` is not given",
             in_range(1e-6, 1e6))
      .param("batch", own(&TrainParams::batch), "sequences a step", in_range(1, 1 << 24))
      .param("micro_batch", own(&TrainParams::micro_batch),
             "sequences at a time: fewer take less memory, more are faster", in_range(1, 1 << 24))
      .param("lr", own(&TrainParams::lr), "the highest learning rate", at_least(0))
      .param("min_lr", own(&TrainParams::min_lr), "the learning rate of the last step", at_least(0))
      .param("schedule", own(&TrainParams::schedule), "how the learning rate falls",
             one_of({"cosine", "linear", "constant"}))
      .param("warmup", own(&TrainParams::warmup),
             "steps in which the learning rate rises; by default a twentieth of all, at most 100", at_least(0))
      .param("weight_decay", own(&TrainParams::weight_decay), "AdamW's, of matrices; norms and biases do not decay",
             in_range(0, 10))
      .param("beta1", own(&TrainParams::beta1), "AdamW's, of the mean of the gradient", in_range(0, 0.99999))
      .param("beta2", own(&TrainParams::beta2), "AdamW's, of the mean of its square", in_range(0, 0.999999))
      .param("epsilon", own(&TrainParams::epsilon), "AdamW's, added to the root", in_range(1e-30, 1))
      .param("clip", own(&TrainParams::clip), "the largest norm of all gradients together; 0: any", at_least(0))
      .param("evaluate_every", own(&TrainParams::evaluate_every),
             "steps between two looks at the held-out data; by default a tenth of all; 0: only first and last",
             at_least(0))
      .param("patience", own(&TrainParams::patience), "stop after so many looks without a better loss; 0: never",
             at_least(0))
      .param("frozen", own(&TrainParams::frozen), "tensors that stay as they are, as globs")
      .param("precision", own(&TrainParams::precision),
             "of the factors of matrix products; sums and the optimizer are f32", one_of({"f32", "bf16"}))
      .param("checkpointing", own(&TrainParams::checkpointing),
             "keep only the inputs of blocks and compute the rest twice: less memory, the same bits")
      .param("dtype", own(&TrainParams::dtype), "how the model is stored; same: as the one that is trained",
             one_of({"same", "bf16", "f16", "f32"}))
      .param("save_every", own(&TrainParams::save_every),
             "steps between two saved states, beside one every five minutes; 0: by time alone", at_least(0));
}

/// Steps of a training on so many sequences.
std::int64_t training_steps(const TrainParams& params, std::int64_t sequences);
NetworkOptions network_options(const TrainParams& params);
DType stored_type(const TrainParams& params);  ///< bf16 for `same`
/// `same` is the type of the matrices of the checkpoint in `folder`, bf16 if they are of several types.
Result<DType> stored_type(const TrainParams& params, const std::string& folder);
/// For train(), from a step's parameters. `identity` is left to the technique (and covers models and losses);
/// `evaluated`: there is held-out data.
TrainingOptions training_options(const TrainParams& params, const Context& context, std::int64_t sequences,
                                 bool evaluated);

/// The shape that a model artifact's attributes tell, for the estimates; what they do not tell is guessed.
ModelConfig config_of(const Input& model);

/// What training will take on the cpu backend; for estimate().
struct TrainingCost {
  double bytes = 0;  ///< private memory: network, moments, activations, logits, the data
  double disk = 0;   ///< states, best weights and the model that is written
  double flops = 0;
};
/// Of `data` and `held_out` the attributes sequences and length count; sequences that nobody knows are not counted.
TrainingCost training_cost(const ModelConfig& model, const TrainParams& params, const Input& data,
                           const std::optional<Input>& held_out);

/// Reports what came out: metrics loss, steps, tokens and, with held-out data, held_out_loss,
/// held_out_first, best_step; a warning if training did not make it better.
void report(const Context& context, const Trained& trained);

}  // namespace fettle::kit
