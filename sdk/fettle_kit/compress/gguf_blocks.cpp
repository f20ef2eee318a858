// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_blocks.h"

#include "fettle_kit/tensor/block_codec.h"

namespace fettle::kit {

void quantize_rows(DType type, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
                   const float* importance) {
  encode_blocks_reference(type, x, out, rows, cols, importance);
}

}  // namespace fettle::kit
