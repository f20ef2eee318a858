// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/row_source.h"

#include <algorithm>
#include <cstdint>
#include <mutex>

namespace fettle::kit {

/// Rows of a matrix in memory, and an account of where they were asked for.
class CountedRows final : public RowSource {
 public:
  explicit CountedRows(ConstMatrix values) : values_(values) {}
  void read(std::int64_t first, MutMatrix out) const override {
    for (std::int64_t i = 0; i < out.rows; ++i) std::ranges::copy(values_.row(first + i), out.row(i).begin());
    const std::lock_guard lock(mutex_);
    const float* const end = out.data + out.rows * out.cols;
    begin_ = begin_ == nullptr ? out.data : std::min(begin_, static_cast<const float*>(out.data));
    end_ = std::max(end_, end);
    rows_ += out.rows;
    most_rows_ = std::max(most_rows_, out.rows);
  }
  std::int64_t rows() const { return rows_; }            ///< read in all
  std::int64_t most_rows() const { return most_rows_; }  ///< read at once
  /// Floats from the first that was written to the last.
  std::int64_t spread() const { return end_ - begin_; }

 private:
  ConstMatrix values_;
  mutable std::mutex mutex_;
  mutable const float *begin_ = nullptr, *end_ = nullptr;
  mutable std::int64_t rows_ = 0, most_rows_ = 0;
};

}  // namespace fettle::kit
