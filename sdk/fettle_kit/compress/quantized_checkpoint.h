// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/grid.h"
#include "fettle_kit/io/checkpoint_builder.h"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fettle::kit {

/// A linear, by the name of its module ("model.layers.0.mlp.up_proj"), and its grid.
struct ModuleScheme {
  std::string module;
  GridScheme scheme;
};

/// "model.layers.0.mlp.up_proj" for "model.layers.0.mlp.up_proj.weight".
std::string module_of(std::string_view weight);

/// The linears that are not among `quantized` (tensor names): what a client must be told to leave alone. Always with
/// "lm_head", which a tied model has without a tensor; without embeddings, which clients do not look at.
std::vector<std::string> dense_linears(const Checkpoint& model, const std::vector<std::string>& quantized);

/// The type in which a model keeps its weights: of its largest tensor. f32, f16 or bf16.
DType weight_type(const Checkpoint& model);

/// Values as the bytes of a tensor, as QuantizedWriter takes them.
template <class T>
std::vector<std::byte> as_bytes(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

struct QuantizedOptions {
  Json quantization_config;
  std::vector<std::pair<std::string, Json>> files;  ///< further files beside config.json
  /// Carried floats become this type, and config.json says so; empty: they stay as they are.
  std::optional<DType> dense_type;
  CheckpointWriterOptions checkpoint;
};

/// How a tensor that is not quantized is stored.
TensorSpec carried_spec(const TensorView& tensor, std::optional<DType> dense_type);

/// Streams a quantized checkpoint: each tensor of the model is carried over or replaced by others, which come in any
/// order. Constant memory. One thread at a time.
class QuantizedWriter {
 public:
  /// `replaced`: tensors of `model` by name, and what takes their place (perhaps under the same name). `model` must
  /// outlive the writer.
  static Result<QuantizedWriter> create(const std::string& folder, const Checkpoint& model,
                                        std::map<std::string, std::vector<TensorSpec>> replaced,
                                        const QuantizedOptions& options);
  /// All of what replaces `name`: the bytes of its tensors in the order of their specs.
  Status replace(const std::string& name, const std::vector<std::vector<std::byte>>& bytes);
  /// The same for a tensor that is replaced by itself, carried_spec(), with other values.
  Status replace_values(const TensorView& tensor, std::span<const float> values);
  /// Every tensor must have been replaced by now.
  Status finish();

 private:
  QuantizedWriter(const Checkpoint& model, CheckpointBuilder builder) : model_(&model), builder_(std::move(builder)) {}
  Status carry(const std::vector<const TensorView*>& tensors);

  const Checkpoint* model_;
  CheckpointBuilder builder_;
  std::map<std::string, std::vector<TensorSpec>> replaced_;
  /// Those that follow a replaced tensor are carried with it, so that shards are finished one after the other.
  std::map<std::string, std::vector<const TensorView*>> followers_;
  std::optional<DType> dense_type_;
};

}  // namespace fettle::kit
