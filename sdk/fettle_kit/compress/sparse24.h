// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// A 2:4 sparse matrix of 16-bit weights as the sparse tensor cores of NVIDIA's sm80 and sm89 read it: half of the
/// values, and two bits that say where each stood.
struct Sparse24 {
  std::vector<std::uint16_t> values;  ///< [rows, cols / 2]: the two kept weights of each group of four, in order
  /// [rows, cols / 16]: four groups a word, the first in the lowest bits; a group is the index of its first kept weight
  /// in bits 0-1 and that of its second in bits 2-3. The words stand in the order of CUTLASS's
  /// ColumnMajorInterleaved<2> with rows reordered, as PyTorch's to_sparse_semi_structured has them.
  std::vector<std::uint16_t> meta;
};

/// Compresses weights [rows, cols] of f16 or bf16. Zeros of either sign count as absent; of a group with fewer than two
/// others, zeros are kept so that the pair is one the hardware knows. invalid_argument, naming `name`, unless rows and
/// cols are multiples of 32, and for the first group of more than two weights that are not zero.
Result<Sparse24> compress_2_of_4(std::span<const std::uint16_t> weights, std::int64_t rows, std::int64_t cols,
                                 std::string_view name);

/// The weights again, absent ones as +0. corrupt_data, naming `name`, if the sizes do not fit rows and cols, or a code
/// is none of the six pairs.
Result<std::vector<std::uint16_t>> expand_2_of_4(std::span<const std::uint16_t> values,
                                                 std::span<const std::uint16_t> meta, std::int64_t rows,
                                                 std::int64_t cols, std::string_view name);

}  // namespace fettle::kit
