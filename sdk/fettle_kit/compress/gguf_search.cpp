// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_search.h"

#include "fettle_kit/compress/gguf_search_lanes.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/block_codec.h"

#include <cmath>
#include <vector>

namespace fettle::kit {
namespace {

BlockSearch search_of(const BlockSearches& table, DType type) {
  using enum DType;
  switch (type) {
    case q4_0:
      return table.q4_0;
    case q5_0:
      return table.q5_0;
    case q2_k:
      return table.q2_k;
    case q3_k:
      return table.q3_k;
    case q4_k:
      return table.q4_k;
    case q5_k:
      return table.q5_k;
    case q6_k:
      return table.q6_k;
    default:
      return nullptr;
  }
}

/// What a squared error counts at each weight of a block: the importance of its column. With two or three bits also
/// more where the weight itself is large, as in ggml's own searches: a block of few codes that fits its many small
/// weights loses the large ones (docs/explanation/quality.md has the numbers).
void weigh(DType type, const float* x, const float* importance, std::vector<float>& w) {
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = importance != nullptr ? importance[i] : 1.0f;
  if (type != DType::q2_k && type != DType::q3_k) return;
  float squares = 0;
  for (std::size_t i = 0; i < w.size(); ++i) squares += x[i] * x[i];
  const float mean = squares / static_cast<float>(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) w[i] *= std::sqrt(mean + x[i] * x[i]);
}

}  // namespace

bool has_better_search(DType type, bool weighted) {
  if (weighted && (type == DType::q2_k || type == DType::q3_k)) return false;
  return search_of(block_searches_plain, type) != nullptr;
}

void better_rows_with(Vectors vectors, DType type, const float* x, std::byte* blocks, std::int64_t rows,
                      std::int64_t cols, const float* importance) {
  const BlockSearch search = search_of(vectors == Vectors::avx512 ? block_searches_avx512
                                       : vectors == Vectors::avx2 ? block_searches_avx2
                                                                  : block_searches_plain,
                                       type);
  const std::int64_t elems = info(type).block_elems;
  std::vector<float> stored(static_cast<std::size_t>(elems)), w(stored.size());
  for (std::int64_t at = 0; at < rows * cols; at += elems, blocks += info(type).block_bytes) {
    const float* const values = x + at;
    weigh(type, values, importance != nullptr ? importance + at % cols : nullptr, w);
    decode_blocks(type, blocks, stored.data(), stored.size());
    double error = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double difference = static_cast<double>(values[i]) - static_cast<double>(stored[i]);
      error += static_cast<double>(w[i]) * difference * difference;
    }
    search(values, w.data(), error, reinterpret_cast<std::uint8_t*>(blocks));
  }
}

void better_rows(DType type, const float* x, std::byte* blocks, std::int64_t rows, std::int64_t cols,
                 const float* importance) {
  better_rows_with(kernels().vectors, type, x, blocks, rows, cols, importance);
}

}  // namespace fettle::kit
