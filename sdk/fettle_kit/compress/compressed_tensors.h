// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/float_matrix.h"
#include "fettle_kit/compress/grid.h"
#include "fettle_kit/compress/quantized_checkpoint.h"
#include "fettle_kit/compress/quantized_layout.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

// Checkpoints with quant_method "compressed-tensors", as transformers and vLLM read them.

extern const QuantizedLayout compressed_tensors_layout;

/// The arguments of the weights of one config group.
struct WeightArgs {
  int bits = 0;
  std::string type;  ///< "int", "float"
  bool symmetric = true;
  std::string strategy;  ///< "tensor", "channel", "group", "block", "tensor_group"
  std::int64_t group_size = 0;
  std::int64_t block_rows = 0, block_cols = 0;
};

/// A linear that a config group applies to and the checkpoint holds in parts.
struct CompressedModule {
  const Checkpoint* checkpoint = nullptr;
  std::string name;  ///< "model.layers.0.mlp.up_proj"
  WeightArgs weights;
};

/// One value of `format`. A new one is a file with such a table and a line in compressed_tensors.cpp.
struct CompressedFormat {
  std::string_view name;  ///< "pack-quantized"
  /// Suffixes of the tensors that the matrix consists of, the first of which says that a module is stored so.
  std::vector<std::string_view> parts;
  Result<std::unique_ptr<const PackedMatrix>> (*open)(const CompressedModule&);
};

extern const CompressedFormat pack_quantized, int_quantized, float_quantized, nvfp4_pack_quantized,
    mxfp4_pack_quantized;

/// One entry of config_groups.
struct CompressedGroup {
  std::string format;                ///< "pack-quantized"
  Json weights;                      ///< its arguments
  Json input_activations;            ///< or null
  std::vector<std::string> modules;  ///< the linears it applies to
};

/// quantization_config. The group with the most modules gets the target "Linear", the others their modules by name;
/// `dense_modules` are ignored.
Json compressed_tensors_config(std::vector<CompressedGroup> groups, std::vector<std::string> dense_modules,
                               const Json& kv_cache_scheme = nullptr);

// pack-quantized: integers of 2, 4 or 8 bits

/// The tensors for "P.weight": weight_packed, weight_scale, weight_shape and, asymmetric, weight_zero_point. Columns
/// must lie in the groups of their neighbours.
std::vector<TensorSpec> pack_quantized_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                             const GridScheme& scheme);
/// Their bytes in that order. Runs on the caller's TBB arena.
std::vector<std::vector<std::byte>> pack_quantized_bytes(const CodedMatrix& coded, const GridScheme& scheme);
/// The arguments of such weights. `act_order`: whether columns were quantized in another order, for the record.
Json pack_quantized_args(const GridScheme& scheme, bool act_order);

// float-quantized: FP8; nvfp4-pack-quantized; mxfp4-pack-quantized

/// How the inputs of a linear are rounded when the model runs.
enum class Activations {
  none,     ///< as they are
  dynamic,  ///< by scales made of what comes: of a token for fp8, of 128 columns for fp8 in blocks, of 32 for mxfp4
  fixed,    ///< by a scale from calibration, beside those of 16 columns for nvfp4
};

/// "float-quantized", ...
const CompressedFormat& float_format(FloatKind kind);
/// The tensors for "P.weight": weight or weight_packed, weight_scale, and what nvfp4 and fixed activations add.
std::vector<TensorSpec> compressed_float_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                               const FloatScheme& scheme, Activations activations);
/// Their bytes in that order. `input_magnitude`: the largest of the linear's inputs; looked at for fixed activations.
std::vector<std::vector<std::byte>> compressed_float_bytes(const FloatMatrix& matrix, Activations activations,
                                                           float input_magnitude);
/// The arguments of such weights, and of their inputs (null for Activations::none).
Json compressed_float_args(const FloatScheme& scheme);
Json compressed_input_args(const FloatScheme& scheme, Activations activations);

// int-quantized: integers of 8 bits, a scale a row, for products of integers (W8A8)

/// The tensors for "P.weight": weight, weight_scale and, where the inputs have a scale of their own, input_scale.
std::vector<TensorSpec> int_quantized_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                            DType scale_type, bool fixed_inputs);
/// Their bytes in that order. 8 bits, symmetric, one group a row. Runs on the caller's TBB arena.
std::vector<std::vector<std::byte>> int_quantized_bytes(const CodedMatrix& coded, DType scale_type,
                                                        std::optional<float> input_scale);
/// The arguments of such weights, and of their inputs: one scale from calibration, or one a token made of what comes.
Json int_quantized_args();
Json int_quantized_input_args(bool fixed_inputs);

}  // namespace fettle::kit
