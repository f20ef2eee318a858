// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/grid.h"
#include "fettle_kit/compress/quantized_checkpoint.h"
#include "fettle_kit/compress/quantized_layout.h"

#include <string>
#include <vector>

namespace fettle::kit {

// AWQ files as AutoAWQ's GEMM version wrote them and transformers, vLLM, SGLang and GPTQModel read them: 4 bits, packed
// along the outputs in an order of their own; quantization_config with quant_method "awq".

extern const QuantizedLayout awq_layout;  ///< reads version "gemm"

/// The tensors for "P.weight" [rows, cols]: P.qweight [cols, rows / 8], P.qzeros and P.scales [groups, ...].
std::vector<TensorSpec> awq_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                  const GridScheme& scheme);
/// Their bytes in that order. 4 bits, rows a multiple of 8, columns in the groups of their neighbours. Runs on the
/// caller's TBB arena.
std::vector<std::vector<std::byte>> pack_awq(const CodedMatrix& coded);

/// quantization_config. Clients leave every module alone whose name contains one of `dense_modules`.
Json awq_config(const GridScheme& scheme, const std::vector<std::string>& dense_modules);

}  // namespace fettle::kit
