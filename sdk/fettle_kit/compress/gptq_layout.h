// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/grid.h"
#include "fettle_kit/compress/quantized_checkpoint.h"
#include "fettle_kit/compress/quantized_layout.h"

#include <string>
#include <vector>

namespace fettle::kit {

// GPTQ files as GPTQModel, transformers, vLLM and SGLang read them: qweight, qzeros, scales and g_idx a linear, and
// quantization_config with quant_method "gptq".

extern const QuantizedLayout gptq_layout;  ///< reads v1 and v2; 2, 3, 4 and 8 bits

enum class GptqVersion {
  v1,  ///< stores zero - 1; read by every client
  v2,  ///< stores zero; needs GPTQModel or vLLM
};

struct GptqFormat {
  GridScheme scheme;  ///< of most matrices
  GptqVersion version = GptqVersion::v1;
  bool act_order = false;      ///< whether g_idx is not simply column / group_size
  bool static_groups = false;  ///< for the record
  bool true_sequential = false;
  double damping = 0;
};

/// The tensors for "P.weight" [rows, cols]: P.qweight, P.qzeros, P.scales, P.g_idx.
std::vector<TensorSpec> gptq_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                   const GridScheme& scheme);
/// Their bytes in that order. rows and cols are multiples of 32. Runs on the caller's TBB arena.
std::vector<std::vector<std::byte>> pack_gptq(const CodedMatrix& coded, GptqVersion version);

/// quantization_config (and quantize_config.json). Modules with another scheme than `format`'s and linears that stay
/// dense are told in `dynamic`.
Json gptq_config(const GptqFormat& format, const std::vector<ModuleScheme>& modules,
                 const std::vector<std::string>& dense_modules);

}  // namespace fettle::kit
