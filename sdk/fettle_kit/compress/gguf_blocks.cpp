// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_blocks.h"

#include "fettle_kit/compress/gguf_lanes.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/block_codec.h"

namespace fettle::kit {
namespace {

RowQuantizer quantizer_of(const RowQuantizers& table, DType type) {
  using enum DType;
  switch (type) {
    case q4_0:
      return table.q4_0;
    case q4_1:
      return table.q4_1;
    case q5_0:
      return table.q5_0;
    case q5_1:
      return table.q5_1;
    case q8_0:
      return table.q8_0;
    case q2_k:
      return table.q2_k;
    case q3_k:
      return table.q3_k;
    case q4_k:
      return table.q4_k;
    case q5_k:
      return table.q5_k;
    case q6_k:
      return table.q6_k;
    case iq4_nl:
      return table.iq4_nl;
    case iq4_xs:
      return table.iq4_xs;
    case mxfp4:
      return table.mxfp4;
    case nvfp4:
      return table.nvfp4;
    case iq2_xxs:
      return table.iq2_xxs;
    case iq2_xs:
      return table.iq2_xs;
    case iq2_s:
      return table.iq2_s;
    case iq3_xxs:
      return table.iq3_xxs;
    case iq3_s:
      return table.iq3_s;
    case iq1_s:
      return table.iq1_s;
    case iq1_m:
      return table.iq1_m;
    default:
      return nullptr;
  }
}

}  // namespace

void quantize_rows_with(Vectors vectors, DType type, const float* x, std::byte* out, std::int64_t rows,
                        std::int64_t cols, const float* importance) {
  RowQuantizer quantize = nullptr;
  if (vectors == Vectors::avx512) quantize = quantizer_of(row_quantizers_avx512, type);
  if (vectors == Vectors::avx2) quantize = quantizer_of(row_quantizers_avx2, type);
  if (quantize != nullptr && rows > 0 && cols > 0)
    quantize(x, reinterpret_cast<std::uint8_t*>(out), rows, cols, importance);
  else
    encode_blocks_reference(type, x, out, rows, cols, importance);
}

void quantize_rows(DType type, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
                   const float* importance) {
  quantize_rows_with(kernels().vectors, type, x, out, rows, cols, importance);
}

}  // namespace fettle::kit
