// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/column_magnitudes.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace fettle::kit {
namespace {

/// A few cache lines of each row, enough to amortise walking down the rows.
constexpr std::int64_t columns_at_once = 64;

/// Calls body(first, end) for runs of at most columns_at_once columns.
template <class Body>
void for_columns(std::int64_t cols, const Body& body) {
  const std::int64_t runs = (cols + columns_at_once - 1) / columns_at_once;
  tbb::parallel_for(std::int64_t{0}, runs, [&](std::int64_t run) {
    body(run * columns_at_once, std::min(cols, (run + 1) * columns_at_once));
  });
}

}  // namespace

ColumnMagnitudes::ColumnMagnitudes(std::int64_t width)
    : abs_max_(static_cast<std::size_t>(width)),
      abs_sum_(static_cast<std::size_t>(width)),
      sum_(static_cast<std::size_t>(width)) {}

void ColumnMagnitudes::add(ConstMatrix x) {
  for_columns(x.cols, [&](std::int64_t first, std::int64_t end) {
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const float* const row = x.data + i * x.stride;
      for (std::int64_t j = first; j < end; ++j) {
        const auto at = static_cast<std::size_t>(j);
        const float magnitude = std::fabs(row[j]);
        if (magnitude > abs_max_[at]) abs_max_[at] = magnitude;
        abs_sum_[at] += static_cast<double>(magnitude);
        sum_[at] += static_cast<double>(row[j]);
      }
    }
  });
  rows_ += x.rows;
}

std::vector<float> ColumnMagnitudes::over_rows(const std::vector<double>& sums) const {
  std::vector<float> means;
  for (const double s : sums) means.push_back(rows_ ? static_cast<float>(s / static_cast<double>(rows_)) : 0.0f);
  return means;
}

void SequenceMagnitudes::add(ConstMatrix x) {
  const std::int64_t sequences = x.rows / length_;
  for_columns(x.cols, [&](std::int64_t first, std::int64_t end) {
    for (std::int64_t s = 0; s < sequences; ++s) {
      std::array<double, columns_at_once> sums{};
      for (std::int64_t i = s * length_; i < (s + 1) * length_; ++i) {
        const float* const row = x.data + i * x.stride;
        for (std::int64_t j = first; j < end; ++j)
          sums[static_cast<std::size_t>(j - first)] += static_cast<double>(std::fabs(row[j]));
      }
      for (std::int64_t j = first; j < end; ++j) {
        const double mean = sums[static_cast<std::size_t>(j - first)] / static_cast<double>(length_);
        squares_[static_cast<std::size_t>(j)] += mean * mean;
      }
    }
  });
  sequences_ += sequences;
}

std::vector<float> SequenceMagnitudes::l2() const {
  std::vector<float> norms;
  for (const double s : squares_) norms.push_back(static_cast<float>(std::sqrt(s)));
  return norms;
}

}  // namespace fettle::kit
