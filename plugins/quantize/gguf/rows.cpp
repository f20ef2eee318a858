// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include "fettle_kit/compress/gguf_blocks.h"
#include "fettle_kit/compress/gguf_search.h"
#include "fettle_kit/kernels/kernels.h"

#include <algorithm>
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

/// Rows of a matrix, or numbers of a vector whose rows they are.
void read_rows(const DenseTensor& t, std::int64_t first, MutMatrix out) {
  if (t.packed != nullptr) return t.packed->read(first, out);
  to_f32(*t.stored, first * out.cols, static_cast<std::size_t>(out.rows * out.cols), out.data);
}

std::int64_t rows_of(const DenseTensor& t, std::int64_t cols) {
  std::int64_t elements = 1;
  for (const std::int64_t n : t.shape) elements *= n;
  return elements / cols;
}

/// Rows of q or k in llama.cpp's order. Even rows of a head stand together in the checkpoint, and odd ones.
void read_pairs(const DenseTensor& t, std::int64_t first, std::int64_t head_dim, MutMatrix out) {
  std::vector<float> half;
  for (std::int64_t done = 0; done < out.rows;) {
    const std::int64_t row = first + done, n = std::min(out.rows - done, head_dim - row % head_dim);
    for (std::int64_t parity = 0; parity < 2; ++parity) {
      const std::int64_t from = (row + parity) % 2, count = (n - from + 1) / 2;
      if (count == 0) continue;
      half.resize(static_cast<std::size_t>(count * out.cols));
      read_rows(t, gguf_source_row(row + from, head_dim), MutMatrix(half.data(), count, out.cols));
      for (std::int64_t i = 0; i < count; ++i)
        std::copy_n(half.data() + i * out.cols, out.cols, out.row(done + from + 2 * i).data());
    }
    done += n;
  }
}

}  // namespace

void store(DType type, Mode mode, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
           const float* importance) {
  const auto n = static_cast<std::size_t>(rows * cols);
  if (info(type).block_elems > 1) {
    quantize_rows(type, x, out, rows, cols, importance);
    if (mode == Mode::better && has_better_search(type, importance != nullptr))
      better_rows(type, x, out, rows, cols, importance);
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

std::int64_t rows_at_once(const PlannedTensor& t, std::int64_t rows) {
  const bool packed =
      std::any_of(t.sources.begin(), t.sources.end(), [](const auto* s) { return s->packed != nullptr; });
  return std::max<std::int64_t>(packed ? 64 : 1, rows);
}

void gather(const PlannedTensor& t, std::int64_t first, std::int64_t rows, std::int64_t cols, float* out) {
  std::int64_t above = 0, done = 0;
  for (const DenseTensor* source : t.sources) {
    const std::int64_t height = rows_of(*source, cols), from = first + done - above;
    above += height;
    if (from >= height || done == rows) continue;
    const MutMatrix part(out + done * cols, std::min(rows - done, height - from), cols);
    if (t.layout.head_dim > 0)
      read_pairs(*source, from, t.layout.head_dim, part);
    else
      read_rows(*source, from, part);
    done += part.rows;
  }
  if (t.layout.plus_one)
    for (std::int64_t i = 0; i < rows * cols; ++i) out[i] += 1.0f;
}

std::int64_t rows_alike(const PlannedTensor& t, std::int64_t row, const float** importance) {
  const auto [rows, cols] = row_shape(t);
  *importance = t.importance.empty() ? nullptr : t.importance.data();
  const std::int64_t parts = static_cast<std::int64_t>(t.importance.size()) / cols;
  if (parts <= 1) return rows - row;
  const std::int64_t height = rows / parts;
  *importance += row / height * cols;
  return height - row % height;
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
