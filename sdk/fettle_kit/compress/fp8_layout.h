// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/quantized_layout.h"

namespace fettle::kit {

// FP8 checkpoints as DeepSeek-V3, transformers' FineGrainedFP8Config and AutoFP8 write them: quantization_config with
// quant_method "fp8". "P.weight" is E4M3; a scale is shared by blocks of weight_block_size in "P.weight_scale_inv"
// (which, whatever its name says, is multiplied by), or by the matrix or a row in "P.weight_scale". Read only.

extern const QuantizedLayout fp8_layout;

}  // namespace fettle::kit
