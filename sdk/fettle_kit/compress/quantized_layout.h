// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/input_grid.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/tensor/row_source.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A matrix as a quantized checkpoint stores it, in several tensors, of which it copies nothing that grows with the
/// matrix. What it reads was checked when it was made.
/// [any thread]
class PackedMatrix : public RowSource {
 public:
  PackedMatrix(std::int64_t rows, std::int64_t cols) : rows_(rows), cols_(cols) {}
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }

 private:
  std::int64_t rows_, cols_;
};

struct PackedWeight {
  std::string name;                ///< of the dense matrix: "model.layers.0.mlp.up_proj.weight"
  std::vector<std::string> parts;  ///< the stored tensors it takes the place of
  std::unique_ptr<const PackedMatrix> matrix;
  InputGrid inputs{};  ///< what clients round the inputs of this linear to
};

/// One way to store quantized checkpoints. A new one is a file with such a table and a line in quantized_layout.cpp.
struct QuantizedLayout {
  std::string_view name;
  /// Whether the checkpoint says that it is stored so.
  bool (*claims)(const Checkpoint&);
  /// All its packed matrices. Views into the checkpoint, which outlives them. corrupt_data for shapes and values that
  /// contradict each other, unsupported for kinds that cannot be read.
  Result<std::vector<PackedWeight>> (*open)(const Checkpoint&);
};

std::span<const QuantizedLayout* const> quantized_layouts();

/// config.json's quantization_config if it is an object, or null.
const Json* quantization_config(const Checkpoint& checkpoint);
/// Whether its quant_method is `method`.
bool has_quant_method(const Checkpoint& checkpoint, std::string_view method);

/// The tensor, or corrupt_data that names it and says what was expected.
Result<const TensorView*> require_tensor(const Checkpoint& checkpoint, const std::string& name, DType dtype,
                                         const std::vector<std::int64_t>& shape);
/// The numbers of a tensor of floats with one of these shapes, all of them finite; or corrupt_data as above.
Result<std::vector<float>> read_scales(const Checkpoint& checkpoint, const std::string& name,
                                       const std::vector<std::vector<std::int64_t>>& shapes);
/// A row of scales [rows, groups], or of one scale for the matrix.
void read_row_of_scales(const TensorView& scales, std::int64_t row, std::span<float> out);
/// "model.safetensors: tensor 'x' ..." as an error of that checkpoint.
Status bad_tensor(const Checkpoint& checkpoint, std::string_view tensor, const std::string& problem);
/// A 32-bit word of a tensor, which need not be aligned.
inline std::uint32_t word_at(const TensorView& t, std::int64_t index) {
  std::uint32_t word = 0;
  std::memcpy(&word, t.bytes.data() + index * 4, 4);
  return word;
}
/// [2, 3]
std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace fettle::kit
