// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/distill/targets.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/text/token_set.h"
#include "fettle_kit/train/train_params.h"
#include "fettle_kit/train/training.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace fettle::kit {

/// What the techniques that train a student on a teacher's distribution ask the user.
struct DistillParams : TrainParams {
  std::string loss = "forward_kl";
  double temperature = 1;
  double beta = 0.5, alpha = 0.1, tau = 0.4;
  double ce = 0;

  DistillParams() {
    lr = 1e-4, min_lr = 1e-5;  // Minitron's
    dtype = "same";
    precision = "bf16";
  }
};

/// Ports and parameters of such a technique.
template <class Params>
Description<Params>& with_distillation(Description<Params>& description) {
  const auto own = []<class T>(T DistillParams::*member) { return static_cast<T Params::*>(member); };
  description.input("student", "model", "the model to train", "layout=hf; weights=f32|f16|bf16|mixed")
      .optional_input("teacher", "model", "the model to learn from, of any shape; or give targets",
                      "tokenizer=@student")
      .input("data", "tokens", "what both read while the student learns", "tokenizer=@student")
      .optional_input("held_out", "tokens", "what to choose the best weights by, and when to stop",
                      "tokenizer=@student")
      .optional_input("targets", "targets", "what the teacher says of the data, from distill.targets",
                      "tokenizer=@student")
      .optional_input("mask", "mask", "weights of the student that are and stay zero")
      .output("model", "model", "a Hugging Face checkpoint of the student with the best weights")
      .param("loss", own(&DistillParams::loss), "how the student's distribution q is held against the teacher's p",
             one_of({"forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "taid"}))
      .param("temperature", own(&DistillParams::temperature),
             "both logits are divided by it; the loss is multiplied by its square", in_range(0.01, 100))
      .param("beta", own(&DistillParams::beta), "of jsd: the share of p in the mixture", in_range(0, 1))
      .param("alpha", own(&DistillParams::alpha), "of the skew losses: the share of the own distribution",
             in_range(0, 0.99))
      .param("tau", own(&DistillParams::tau),
             "of taid: how far towards the teacher its target is at the start; it rises to 1", in_range(0, 1))
      .param("ce", own(&DistillParams::ce),
             "share of the loss that is cross-entropy of the next token; 1: the teacher is not asked", in_range(0, 1));
  return with_train_params(description);
}

/// What can be wrong with the ports together with the parameters, as far as a plan can know.
Status check_distillation(const DistillParams& params, const Inputs& inputs);
/// Memory, disk, work, and the attributes of the output, which are the student's. `more_bytes`: memory that the
/// technique takes beside.
void estimate_distillation(const DistillParams& params, const Inputs& inputs, Estimate& estimate,
                           double more_bytes = 0);

/// What the teacher says of a micro-batch.
class Teacher {
 public:
  virtual ~Teacher() = default;
  /// Fills the teacher's part of `target`, all but scale and spec; what it points to stays until the next call.
  virtual Status show(LossTarget& target, const MicroBatch& batch) = 0;
  /// TrainingTask::spoilt_elsewhere.
  virtual std::string first_spoilt() { return {}; }
};

/// A teacher that is run.
class LiveTeacher final : public Teacher {
 public:
  explicit LiveTeacher(Network network) : network_(std::move(network)) {}
  Status show(LossTarget& target, const MicroBatch& batch) override;
  std::string first_spoilt() override;
  Status forward(const MicroBatch& batch);
  Network& network() { return network_; }

 private:
  Network network_;
};

/// A teacher that was run: by hidden states or by tokens.
std::unique_ptr<Teacher> cached_teacher(Backend& backend, Targets targets, Precision precision);

/// A loss added to that of the logits, on what lies inside student and teacher.
class InnerLoss {
 public:
  virtual ~InnerLoss() = default;
  /// Before the student's backward pass: both have gone forward.
  virtual void begin(const MicroBatch& batch) = 0;
  /// A GradientHook: adds the gradient of this loss, divided by MicroBatch::denominator as all losses.
  virtual void add_gradient(std::int64_t layer, const Array& gradient) = 0;
  /// After the backward pass: the value of this micro-batch, likewise divided.
  virtual double value() const = 0;
  /// What it trains beside the student.
  virtual std::span<const TrainedTensor> tensors() const { return {}; }
};

/// A student, its teacher and the data, from the inputs of a step with the ports and parameters above: all that is
/// checked is checked on opening. Its members borrow from one another, so it stays where it is made.
class Distillation {
 public:
  static Result<std::unique_ptr<Distillation>> open(const DistillParams& params, const Context& context);

  Network& student() { return *student_; }
  LiveTeacher* live_teacher() { return live_.get(); }  ///< or null
  const TokenSet& data() const { return *data_; }
  Backend& backend() { return *backend_; }

  /// What a technique does beside training the student.
  struct Beside {
    std::span<const TrainedTensor> tensors;  ///< it trains them too; their gradients are there at finish_gradients()
    std::function<void()> before_write;      ///< changes the student a last time; may be empty
  };
  /// Trains the student and writes it. `identity` is what the technique adds to the parameters that decide over the
  /// result; `inner` may be null.
  Status run(const std::string& identity, InnerLoss* inner = nullptr, const Beside& beside = {});

  /// The loss of one micro-batch, with gradients in the student.
  Result<double> loss(const MicroBatch& batch, InnerLoss* inner = nullptr);
  /// The loss on the held-out data, without the inner one. NaN without such data.
  Result<double> held_out_loss();
  /// KL(teacher, student) on the held-out data, as eval.compare measures it. NaN without such data or a live teacher.
  Result<double> held_out_kl();

 private:
  Distillation(const DistillParams& params, const Context& context) : params_(params), context_(context) {}
  Status open_teacher();
  LossSpec spec(std::int64_t step) const;
  /// Mean over the held-out data of ce x cross-entropy + (1 - ce) x the divergence from the live teacher.
  Result<double> measure(double ce, const LossSpec& spec);

  DistillParams params_;
  const Context& context_;
  std::unique_ptr<Backend> backend_;
  std::optional<Network> student_;
  std::unique_ptr<LiveTeacher> live_;
  std::unique_ptr<Teacher> cached_;  ///< decides, if there are both
  std::optional<TokenSet> data_, held_out_;
  std::int64_t steps_ = 1;
};

/// LossSpec::divergence of a parameter `loss`.
Result<Divergence> parse_divergence(std::string_view text);

}  // namespace fettle::kit
