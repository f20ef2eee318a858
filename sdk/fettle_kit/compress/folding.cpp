// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/folding.h"

#include <array>
#include <cmath>

namespace fettle::kit {
namespace {

/// The value after it was stored and read.
float stored_as(float value, DType type) {
  std::array<std::byte, 8> bytes;  // NOLINT: written next
  info(type).from_f32(&value, bytes.data(), 1);
  info(type).to_f32(bytes.data(), &value, 1);
  return value;
}

}  // namespace

void scale_columns(MutMatrix w, std::span<const float> scales) {
  for (std::int64_t i = 0; i < w.rows; ++i)
    for (std::int64_t j = 0; j < w.cols; ++j) w(i, j) *= scales[static_cast<std::size_t>(j)];
}

void divide_rows(MutMatrix w, std::span<float> bias, std::span<const float> scales) {
  for (std::int64_t i = 0; i < w.rows; ++i)
    for (float& v : w.row(i)) v /= scales[static_cast<std::size_t>(i)];
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] /= scales[i];
}

void fold_into_norm(std::span<float> factors, std::span<float> scales, DType stored, bool unit_offset) {
  const float offset = unit_offset ? 1.0F : 0.0F;
  for (std::size_t j = 0; j < factors.size(); ++j) {
    if (scales[j] == 1) continue;
    const float folded = stored_as(factors[j] / scales[j] - offset, stored) + offset;
    const float scale = factors[j] / folded;
    if (folded == 0 || !std::isfinite(folded) || scale == 0 || !std::isfinite(scale)) {
      scales[j] = 1;
      continue;
    }
    factors[j] = folded;
    scales[j] = scale;
  }
}

std::vector<float> mean_over_sharing_heads(std::span<const float> by_head, std::int64_t heads, std::int64_t kv_heads) {
  const std::int64_t dim = static_cast<std::int64_t>(by_head.size()) / heads, sharing = heads / kv_heads;
  std::vector<float> mean(static_cast<std::size_t>(kv_heads * dim));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t d = 0; d < dim; ++d)
      mean[static_cast<std::size_t>(h / sharing * dim + d)] +=
          by_head[static_cast<std::size_t>(h * dim + d)] / static_cast<float>(sharing);
  return mean;
}

std::vector<float> largest_of_sharing_heads(std::span<const float> by_head, std::int64_t heads, std::int64_t kv_heads) {
  const std::int64_t dim = static_cast<std::int64_t>(by_head.size()) / heads, sharing = heads / kv_heads;
  std::vector<float> most(static_cast<std::size_t>(kv_heads * dim));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t d = 0; d < dim; ++d) {
      float& v = most[static_cast<std::size_t>(h / sharing * dim + d)];
      const float own = by_head[static_cast<std::size_t>(h * dim + d)];
      if (h % sharing == 0 || own > v) v = own;
    }
  return most;
}

std::vector<float> repeat_for_heads(std::span<const float> by_kv_head, std::int64_t heads, std::int64_t kv_heads) {
  const std::int64_t dim = static_cast<std::int64_t>(by_kv_head.size()) / kv_heads, sharing = heads / kv_heads;
  std::vector<float> repeated(static_cast<std::size_t>(heads * dim));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t d = 0; d < dim; ++d)
      repeated[static_cast<std::size_t>(h * dim + d)] = by_kv_head[static_cast<std::size_t>(h / sharing * dim + d)];
  return repeated;
}

}  // namespace fettle::kit
