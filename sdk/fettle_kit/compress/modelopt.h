// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/compressed_tensors.h"
#include "fettle_kit/compress/quantized_layout.h"

#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

// Checkpoints as NVIDIA ModelOpt exports them (quant_method "modelopt", hf_quant_config.json), for TensorRT-LLM, vLLM
// and SGLang. All scales multiply, where compressed-tensors has divisors.

extern const QuantizedLayout modelopt_layout;

/// ModelOpt's name for the combination, or "" if it has none:
///   FP8                        a scale of the matrix, fixed activations
///   FP8_PER_CHANNEL_PER_TOKEN  of rows, dynamic activations
///   FP8_PB_WO                  of blocks, activations as they are
///   NVFP4, W4A16_NVFP4         with fixed activations, or as they are
std::string_view modelopt_algorithm(const FloatScheme& scheme, Activations activations);

/// The tensors for "P.weight": weight, weight_scale and, where the algorithm has them, weight_scale_2 and input_scale.
std::vector<TensorSpec> modelopt_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                       const FloatScheme& scheme, Activations activations);
/// Their bytes in that order.
std::vector<std::vector<std::byte>> modelopt_bytes(const FloatMatrix& matrix, Activations activations,
                                                   float input_magnitude);
/// hf_quant_config.json, and what config.json says of it. `fp8_cache`: there are scales for a cache in E4M3.
Json modelopt_file(std::string_view algorithm, const std::vector<std::string>& dense_modules, bool fp8_cache = false);
Json modelopt_config(std::string_view algorithm, const std::vector<std::string>& dense_modules, bool fp8_cache = false);

}  // namespace fettle::kit
