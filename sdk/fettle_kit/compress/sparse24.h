// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace fettle::kit {

// A 2:4 sparse matrix of 16-bit weights as the sparse tensor cores of NVIDIA's sm80 and sm89 read it: half of the
// values, and two bits that say where each stood. All buffers are bytes of 16-bit words, little endian, of any
// alignment.
//
//   weights  [rows, cols] f16 or bf16
//   values   [rows, cols / 2]: the two kept weights of each group of four, in order
//   meta     [rows, cols / 16]: four groups a word, the first in the lowest bits; a group is the index of its first
//            kept weight in bits 0-1 and that of its second in bits 2-3. The words stand in the order of CUTLASS's
//            ColumnMajorInterleaved<2> with rows reordered, as PyTorch's to_sparse_semi_structured has them.

struct Sparse24 {
  std::vector<std::byte> values, meta;
};

/// Whether weights can be stored so: rows and cols are multiples of 32, and no group of four holds more than two
/// weights that are not zero of either sign. invalid_argument, naming `name`, says what is in the way.
Status check_2_of_4(std::span<const std::byte> weights, std::int64_t rows, std::int64_t cols, std::string_view name);

/// Compresses weights; of a group with fewer than two, zeros are kept so that the pair is one the hardware knows.
/// Errors: those of check_2_of_4().
Result<Sparse24> compress_2_of_4(std::span<const std::byte> weights, std::int64_t rows, std::int64_t cols,
                                 std::string_view name);

/// corrupt_data, naming `name`, if the sizes do not fit rows and cols, or a code is none of the six pairs.
Status check_sparse24(std::span<const std::byte> values, std::span<const std::byte> meta, std::int64_t rows,
                      std::int64_t cols, std::string_view name);

/// Rows [first, first + out.size() / cols) of the weights again, absent ones as +0. What it reads passed
/// check_sparse24().
void expand_2_of_4(std::span<const std::byte> values, std::span<const std::byte> meta, std::int64_t rows,
                   std::int64_t cols, std::int64_t first, std::span<std::uint16_t> out);

}  // namespace fettle::kit
