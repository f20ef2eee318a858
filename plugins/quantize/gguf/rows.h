// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/compress/gguf_mix.h"
#include "fettle_kit/model/gguf_layout.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace quantize_gguf {

/// One tensor of the file: where it comes from and what becomes of it.
struct PlannedTensor {
  fettle::kit::GgufTensor layout;
  std::vector<const fettle::kit::DenseTensor*> sources;  ///< their rows make it up, top to bottom; none: computed
  fettle::kit::GgufMixChoice choice;
  /// Of the columns; empty: all the same. Of a stack of experts one after the other, or the same for all.
  std::span<const float> importance;
  std::optional<double> error;  ///< measured, where the type was chosen by it
};

/// A vector whose elements move (a bias of q or k) counts as a column; any other vector as a row.
struct RowShape {
  std::int64_t rows, cols;
};
RowShape row_shape(const PlannedTensor& tensor);

/// Rows that are best read at a time: those of a packed matrix lie together in the file.
std::int64_t rows_at_once(const PlannedTensor& tensor, std::int64_t rows);

/// How many rows from `row` on share the importance of their columns, which is `*importance`, or null if it is the same
/// for all columns.
std::int64_t rows_alike(const PlannedTensor& tensor, std::int64_t row, const float** importance);

/// Rows first .. first + rows of the tensor as they stand in the GGUF file, in f32. Not of a computed one.
void gather(const PlannedTensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols, float* out);

/// Whose bytes the blocks are: ggml's quantizer's, or those of our own search where it knows the type.
enum class Mode { compatible, better };

/// x [rows, cols] as `type`; importance [cols] or null.
void store(fettle::kit::DType type, Mode mode, const float* x, std::byte* out, std::int64_t rows, std::int64_t cols,
           const float* importance);

}  // namespace quantize_gguf
