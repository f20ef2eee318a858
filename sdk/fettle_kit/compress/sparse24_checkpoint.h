// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/quantized_layout.h"
#include "fettle_kit/io/checkpoint.h"

#include <cstdint>
#include <functional>
#include <string>

namespace fettle::kit {

// 2:4 sparse checkpoints at 9/16 of their dense size (sparse24.h). "x.weight" [rows, cols] becomes
//
//   x.weight_values  [rows, cols / 2], the type of the weights
//   x.weight_meta    I16 [rows, cols / 16]
//
// and config.json says quantization_config {"quant_method": "sparse24", "format": "sm80"}, so that a program that does
// not know the layout refuses it. No server reads it: it is an archive, and what a kernel for sm80 wants to be given.

extern const QuantizedLayout sparse24_layout;

struct Sparse24Written {
  std::int64_t matrices = 0;                  ///< stored compressed
  std::uint64_t bytes = 0, bytes_before = 0;  ///< of all tensors
};

/// Writes `dense` so; matrices of f16 or bf16 that are not 2:4 stay as they are, everything else is carried over.
/// `proceed` is asked before each tensor: false ends with Code::cancelled. invalid_argument if no matrix is 2:4.
Result<Sparse24Written> write_sparse24(const std::string& folder, const Checkpoint& dense,
                                       const CheckpointWriterOptions& options,
                                       const std::function<bool()>& proceed = {});

}  // namespace fettle::kit
