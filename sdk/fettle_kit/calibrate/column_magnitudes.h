// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <vector>

namespace fettle::kit {

/// Largest magnitude, mean magnitude and mean of every column over all rows it is shown.
///
///   x [n, width] f32, one row a token
///
/// Sums are f64, row by row in the order shown; columns are shared out among threads, so nothing depends on their
/// number. A NaN stays in the means of its column and is passed over by its largest magnitude.
class ColumnMagnitudes {
 public:
  explicit ColumnMagnitudes(std::int64_t width);
  void add(ConstMatrix x);
  std::int64_t rows() const { return rows_; }
  /// [width]; zeros before the first row.
  const std::vector<float>& abs_max() const { return abs_max_; }
  std::vector<float> mean_abs() const { return over_rows(abs_sum_); }
  std::vector<float> mean() const { return over_rows(sum_); }

 private:
  std::vector<float> over_rows(const std::vector<double>& sums) const;
  std::vector<float> abs_max_;
  std::vector<double> abs_sum_, sum_;
  std::int64_t rows_ = 0;
};

/// How much a column is used, as Minitron asks (Muralidharan et al. 2024, arXiv:2407.14679, section 2.2): the mean of
/// |x| over each sequence's tokens, then the L2 norm over sequences. Not the mean over all tokens: a column that
/// matters to few texts ranks higher here.
///
///   x [sequences * length, width] f32, whole sequences
///
/// f64 throughout, in the order shown: two portions give what one gives, for any number of threads.
class SequenceMagnitudes {
 public:
  SequenceMagnitudes(std::int64_t width, std::int64_t length)
      : length_(length), squares_(static_cast<std::size_t>(width)) {}
  void add(ConstMatrix x);
  std::int64_t sequences() const { return sequences_; }
  /// sqrt(sum over sequences of (mean over tokens of |x_j|)^2) of every column j.
  std::vector<float> l2() const;

 private:
  std::int64_t length_, sequences_ = 0;
  std::vector<double> squares_;
};

}  // namespace fettle::kit
