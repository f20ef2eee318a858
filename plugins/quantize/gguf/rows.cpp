// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include "fettle_kit/compress/gguf_blocks.h"
#include "fettle_kit/compress/gguf_search.h"
#include "fettle_kit/kernels/kernels.h"

#include <cstring>

namespace quantize_gguf {

using namespace fettle::kit;

namespace {

void to_f32(const TensorView& t, std::int64_t first, std::size_t n, float* out) {
  const DTypeInfo& type = info(t.dtype);
  const std::byte* from = t.bytes.data() + first * type.block_bytes;
  const bool aligned = reinterpret_cast<std::uintptr_t>(from) % alignof(std::uint16_t) == 0;
  if (t.dtype == DType::bf16 && aligned)
    return kernels().bf16_to_f32(out, reinterpret_cast<const std::uint16_t*>(from), n);
  if (t.dtype == DType::f16 && aligned)
    return kernels().f16_to_f32(out, reinterpret_cast<const std::uint16_t*>(from), n);
  type.to_f32(from, out, n);
}

}  // namespace

void store(DType type, Mode mode, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
           const float* importance) {
  const auto n = static_cast<std::size_t>(rows * cols);
  if (info(type).block_elems > 1) {
    quantize_rows(type, x, out, rows, cols, importance);
    if (mode == Mode::better && has_better_search(type, importance != nullptr)) better_rows(type, x, out, rows, cols, importance);
    return;
  }
  if (type == DType::f32) {
    std::memcpy(out, x, n * sizeof(float));
    return;
  }
  if (type == DType::bf16) return kernels().f32_to_bf16(reinterpret_cast<std::uint16_t*>(out), x, n);
  if (type == DType::f16) return kernels().f32_to_f16(reinterpret_cast<std::uint16_t*>(out), x, n);
  info(type).from_f32(x, out, n);
}

void gather(const PlannedTensor& t, std::int64_t first, std::int64_t rows, std::int64_t cols, float* out) {
  const GgufTensor& layout = t.layout;
  if (layout.head_dim == 0) {
    to_f32(*t.source, first * cols, static_cast<std::size_t>(rows * cols), out);
  } else {
    for (std::int64_t r = 0; r < rows; ++r)
      to_f32(*t.source, gguf_source_row(first + r, layout.head_dim) * cols, static_cast<std::size_t>(cols),
             out + r * cols);
  }
  if (layout.plus_one)
    for (std::int64_t i = 0; i < rows * cols; ++i) out[i] += 1.0f;
}

RowShape row_shape(const PlannedTensor& t) {
  const auto& shape = t.layout.shape;
  std::int64_t elements = 1;
  for (const std::int64_t n : shape) elements *= n;
  if (shape.size() <= 1 && t.layout.head_dim > 0) return {elements, 1};
  const std::int64_t cols = shape.empty() ? 1 : shape.back();
  return {cols == 0 ? 0 : elements / cols, cols};
}

}  // namespace quantize_gguf
