// SPDX-License-Identifier: Apache-2.0
#include "target.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <cmath>

namespace quantize_gguf {

using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

/// Weights of a tensor that are tried: the error of a type hardly differs from one part of a matrix to another.
constexpr std::int64_t kSample = 1 << 20;

/// The error of one type over some rows, and the sum it is a share of.
struct Sums {
  double error = 0, total = 0;
};

/// Rows of t, and which ones they are.
Sums sums_of(DType type, Mode mode, const PlannedTensor& t, std::span<const float> x,
             std::span<const std::int64_t> chosen) {
  const std::int64_t cols = row_shape(t).cols, rows = static_cast<std::int64_t>(chosen.size());
  std::vector<std::byte> stored(bytes_of(type, x.size()));
  std::vector<const float*> importance(chosen.size());
  for (std::size_t i = 0; i < chosen.size(); ++i) rows_alike(t, chosen[i], &importance[i]);
  for (std::int64_t i = 0, n = 0; i < rows; i += n) {  // all at once but for stacks of experts
    const float* const same = importance[static_cast<std::size_t>(i)];
    for (n = 1; i + n < rows && importance[static_cast<std::size_t>(i + n)] == same;) ++n;
    store(type, mode, x.data() + i * cols, stored.data() + bytes_of(type, static_cast<std::uint64_t>(i * cols)), n,
          cols, same);
  }
  std::vector<float> back(x.size());
  info(type).to_f32(stored.data(), back.data(), back.size());
  Sums sums;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      const auto at = static_cast<std::size_t>(i * cols + j);
      const float* const of_row = importance[static_cast<std::size_t>(i)];
      const double weight = of_row == nullptr ? 1.0 : static_cast<double>(of_row[j]);
      const double w = static_cast<double>(x[at]), difference = w - static_cast<double>(back[at]);
      sums.error += weight * difference * difference;
      sums.total += weight * w * w;
    }
  return sums;
}

std::vector<StorageOption> options_of(const PlannedTensor& t, Mode mode, const std::vector<DType>& candidates) {
  const auto [rows, cols] = row_shape(t);
  const auto elements = static_cast<std::uint64_t>(rows * cols);
  if (candidates.size() == 1) return {{candidates[0], bytes_of(candidates[0], elements), 0}};
  const std::int64_t taken = std::clamp<std::int64_t>(kSample / cols, 1, rows);
  std::vector<float> x(static_cast<std::size_t>(taken * cols));
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < taken; ++i) {
    chosen.push_back(i * rows / taken);
    gather(t, chosen.back(), 1, cols, x.data() + i * cols);
  }
  for (float& v : x)
    if (!std::isfinite(v)) v = 0;  // whoever writes the file says what is wrong
  std::vector<StorageOption> out;
  for (const DType type : candidates) {
    const Sums sums = sums_of(type, mode, t, x, chosen);
    out.push_back({type, bytes_of(type, elements), sums.total > 0 ? sums.error / sums.total : 0});
  }
  return out;
}

}  // namespace

std::vector<DType> candidate_types(std::int64_t cols, bool importance) {
  using enum DType;
  std::vector<DType> fitting;
  for (const DType type : {iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s})
    if (importance && cols % info(type).block_elems == 0) fitting.push_back(type);
  for (const DType type : {q2_k, q3_k, iq4_xs, iq4_nl, q4_k, q4_0, q4_1, q5_k, q5_0, q5_1, q6_k, q8_0, f16})
    if (cols % info(type).block_elems == 0) fitting.push_back(type);
  return fitting;
}

Result<std::vector<std::vector<StorageOption>>> measure_options(std::span<const PlannedTensor> tensors,
                                                                std::span<const std::vector<DType>> candidates,
                                                                Mode mode, const std::function<bool()>& cancelled) {
  std::vector<std::vector<StorageOption>> out(tensors.size());
  std::atomic<bool> stopped = false;
  tbb::parallel_for(std::size_t{0}, tensors.size(), [&](std::size_t i) {
    if (stopped || (stopped = cancelled())) return;
    out[i] = options_of(tensors[i], mode, candidates[i]);
  });
  if (stopped) return Status(fettle::Code::cancelled, "cancelled");
  return out;
}

}  // namespace quantize_gguf
