// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/backend/backend.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/model/weights.h"
#include "fettle_kit/tensor/dtype.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// What forward uses instead of a parameter's master copy, for example its quantized value (straight-through: the
/// gradient with respect to what is used counts as the master's).
class WeightTransform {
 public:
  virtual ~WeightTransform() = default;
  /// used = f(master); both [rows, cols], used real or bf16 and another array than master.
  virtual void apply(Backend& backend, const Array& used, const Array& master) const = 0;
  /// Changes the accumulated gradient, once a step: 0 where the master is clipped, say.
  virtual void filter_gradient(Backend& backend, const Array& gradient, const Array& master) const;
};

/// One trainable tensor.
struct Parameter {
  std::string name;                 ///< of the Hugging Face checkpoint
  std::vector<std::int64_t> shape;  ///< as there: [out, in] or [n]
  bool decay = false;               ///< weight decay applies: a matrix, neither norm nor bias
  Array value;                      ///< master copy, real [rows, cols]; a vector is one row
  Array gradient;                   ///< real, the same shape; none in a frozen network. Unknown before backward()
  Array used;                       ///< what forward reads: value itself, its bf16 copy, or the transform of it
  bool accumulated = false;         ///< gradient holds something that the next backward() adds to
  std::shared_ptr<const WeightTransform> transform;

  std::int64_t elements() const { return value.size(); }
};

struct NetworkOptions {
  Precision precision = Precision::real;  ///< of the products; values, gradients and sums are real
  bool checkpointing = false;  ///< keep only the blocks' inputs and compute the rest again in backward(): same bits
  bool frozen = false;         ///< a teacher: no gradients, backward() must not be called
};

/// A decoder that can be trained, on any backend. Micro-batch after micro-batch:
///
///   network.zero_gradients();
///   for each micro-batch { network.forward(ids, batch); network.head_loss(target); network.backward(); }
///   network.finish_gradients();   // the transforms' filters
///   optimizer step on parameters()
///   network.weights_changed();    // or apply_transforms(), if the optimizer wrote the other Parameter::used itself
///
/// Same bits for any number of threads and with or without checkpointing. One thread at a time.
class Network {
 public:
  /// With the values of a model, whatever file and family. The backend must outlive the network.
  static Result<Network> open(Backend& backend, const Weights& weights, const NetworkOptions& options);
  /// Normal numbers of deviation `deviation` in matrices, norms that multiply by 1, biases 0, as transformers starts a
  /// model. Each tensor has its own random stream, so a number depends on the seed, the tensor's name and its place.
  static Result<Network> create(Backend& backend, const ModelConfig& config, std::uint64_t seed, double deviation,
                                const NetworkOptions& options);
  Network(Network&&) noexcept;
  Network& operator=(Network&&) noexcept;
  ~Network();

  const ModelConfig& config() const;
  Backend& backend() const;
  const NetworkOptions& options() const;

  /// In the order of the model: embedding, block by block, final norm, head (unless tied).
  std::span<Parameter> parameters();
  std::span<const Parameter> parameters() const;
  Parameter* find(std::string_view name);  ///< or null
  std::int64_t parameter_count() const;
  /// `transform` may be null: then the master is used again.
  void set_transform(Parameter& parameter, std::shared_ptr<const WeightTransform> transform);

  /// Errors: an id outside the vocabulary.
  Status forward(std::span<const std::int32_t> ids, const Batch& batch);
  /// After forward, until the next one: input of the head [rows, hidden], real or bf16.
  const Array& hidden() const;
  /// Rows that go into block `layer`, real; of layer config().layers: those into the final norm.
  const Array& block_input(std::int64_t layer) const;
  /// What logits are made with: head weights as they are used.
  const Array& head() const;

  /// Loss of the last forward's rows; gradients, unless frozen.
  LossSums head_loss(const LossTarget& target);
  /// May add to the gradient of block_input(layer), real [rows, hidden], once what flows into it from above is
  /// complete. Called for layer = layers, layers - 1, ..., 0.
  using GradientHook = std::function<void(std::int64_t layer, const Array& gradient)>;
  /// From the gradient that head_loss left; without a call of head_loss since forward, from zero and the hook alone.
  void backward(const GradientHook& hook = {});

  void zero_gradients();
  void finish_gradients();
  /// Call after Parameter::value changed.
  void weights_changed();
  void apply_transforms();  ///< the part of weights_changed that concerns parameters with a transform

  /// Writes a Hugging Face checkpoint of the master values (or, if `transformed`, of what the transforms make of them)
  /// as `dtype`: f32, bf16 or f16. `config` is config.json of the model, in which the dtype is set; other files are
  /// carried over from `from` (see write_checkpoint). Errors: io; a value beyond the range of f16.
  Status write(const std::string& folder, Json config, DType dtype, const std::string& from,
               bool transformed = false) const;

  /// Private bytes of a network and the activations of one micro-batch on the cpu backend, optimizer moments not
  /// counted.
  static double bytes(const ModelConfig& config, double rows, const NetworkOptions& options);

 private:
  struct State;
  explicit Network(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace fettle::kit
