// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/quantized_layout.h"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A tensor of the model, whether the file holds it as it is or packed.
struct DenseTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  const TensorView* stored = nullptr;    ///< one of the two
  const PackedMatrix* packed = nullptr;  ///< read it as f32
  InputGrid inputs{};                    ///< of a packed matrix: what clients round its inputs to
  std::vector<const TensorView*> parts;  ///< the stored tensors that hold it
};

/// A checkpoint folder in any layout we know, as if it were not quantized: the tensors of the model by their usual
/// names. A plain checkpoint is presented as it is. Move-only. [any thread once open]
class DenseCheckpoint {
 public:
  /// Errors: those of Checkpoint; unsupported, naming those we read, for a quantization_config of another kind.
  static Result<DenseCheckpoint> open(const std::string& folder);

  const Checkpoint& stored() const { return stored_; }
  /// "" if nothing is packed.
  std::string_view layout() const { return layout_; }
  /// In the order of the stored tensors; a packed matrix stands where its first part does.
  const std::vector<DenseTensor>& tensors() const { return tensors_; }
  const DenseTensor* find(std::string_view name) const;
  /// Rows [first, first + out.rows) of a tensor with two dimensions as f32; stored types must have to_f32.
  static void read(const DenseTensor& tensor, std::int64_t first, MutMatrix out);

 private:
  explicit DenseCheckpoint(Checkpoint stored) : stored_(std::move(stored)) {}
  Checkpoint stored_;
  std::string_view layout_;
  std::vector<PackedWeight> packed_;
  std::vector<DenseTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace fettle::kit
