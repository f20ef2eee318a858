// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// N:M sparsity: of every M consecutive weights along the input dimension N are kept. 2:4 is what sparse tensor cores
/// run.
struct NofM {
  int n = 2, m = 4;
};
/// From "2:4". Refuses n < 1, n > m and m > 64.
Result<NofM> parse_n_of_m(std::string_view text);

/// Which weights of one matrix are kept: a bit each, rows padded to whole bytes, element j of a row in bit j % 8 of
/// byte j / 8. A mask is not "weight != 0": a kept weight may be zero, and training moves zeros.
class Mask {
 public:
  Mask() = default;
  Mask(std::int64_t rows, std::int64_t cols);  ///< everything kept
  /// From stored bytes of rows * ((cols + 7) / 8).
  Mask(std::int64_t rows, std::int64_t cols, std::span<const std::byte> bytes);

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t row_bytes() const { return (cols_ + 7) / 8; }
  bool kept(std::int64_t row, std::int64_t col) const { return (bits_[at(row, col)] >> (col & 7) & 1) != 0; }
  void prune(std::int64_t row, std::int64_t col) {
    bits_[at(row, col)] &= static_cast<std::uint8_t>(~(1u << (col & 7)));
  }
  /// Prunes what `part` prunes, whose columns are those from `first` on.
  void prune_columns(std::int64_t first, const Mask& part);
  /// Prunes those of the eight columns from 8 * byte on whose bit is 0.
  void keep_only(std::int64_t row, std::int64_t byte, std::uint8_t bits) {
    bits_[static_cast<std::size_t>(row * row_bytes() + byte)] &= bits;
  }
  std::int64_t count_pruned() const;
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(bits_)); }
  friend bool operator==(const Mask&, const Mask&) = default;

 private:
  std::size_t at(std::int64_t row, std::int64_t col) const {
    return static_cast<std::size_t>(row * row_bytes() + col / 8);
  }
  void clear_padding();  ///< so that equal masks have equal bytes
  std::int64_t rows_ = 0, cols_ = 0;
  std::vector<std::uint8_t> bits_;
};

/// Which scores compete with one another.
enum class Group { matrix, row };

/// Prunes exactly floor(size * share) of the lowest scores of each group; of equal scores the later index goes first.
/// scores [rows, cols], >= 0 and not NaN. share in [0, 1]. Same result for any thread count.
Mask prune_share(ConstMatrix scores, double share, Group group);

/// Bit j is set if score j is among the N highest of M; of equal scores the earlier is kept.
std::uint64_t keep_n_of_m(const float* scores, NofM pattern);

/// Keeps the N highest scores of every aligned group of M columns of a row; of equal scores the earlier index is kept.
/// cols must be a multiple of M.
Mask prune_n_of_m(ConstMatrix scores, NofM pattern);

/// A "mask" artifact: a folder with mask.safetensors, one U8 tensor [rows, (cols + 7) / 8] a masked matrix under the
/// matrix's name, and its column count in the metadata as "cols:<name>".
class MaskWriter {
 public:
  struct Shape {
    std::string name;
    std::int64_t rows = 0, cols = 0;
  };
  static Result<MaskWriter> create(const std::string& folder, const std::vector<Shape>& matrices);
  /// In the order of `matrices`.
  Status add(std::string_view name, const Mask& mask);
  Status finish();

 private:
  explicit MaskWriter(SafetensorsWriter writer) : writer_(std::move(writer)) {}
  SafetensorsWriter writer_;
};

/// All masks of an artifact, by matrix name.
Result<std::map<std::string, Mask>> read_masks(const std::string& folder);

}  // namespace fettle::kit
