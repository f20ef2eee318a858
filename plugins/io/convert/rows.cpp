// SPDX-License-Identifier: Apache-2.0
#include "convert.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <vector>

namespace io_convert {

using fettle::Status;
using namespace fettle::kit;

constexpr std::int64_t kPortion = 1 << 22;  // elements converted at a time

const char* name_in_config(DType type) {
  return type == DType::f16 ? "float16" : type == DType::bf16 ? "bfloat16" : "float32";
}

Status write_rows(Rows shape, DType type, const RowReader& read, const TensorSink& sink) {
  const auto [rows, cols] = shape;
  const std::int64_t at_once = std::max<std::int64_t>(1, kPortion / std::max<std::int64_t>(1, cols));
  std::vector<float> values(static_cast<std::size_t>(std::min(at_once, rows) * cols));
  std::vector<std::byte> bytes(values.size() * bytes_of(type, 1));
  for (std::int64_t first = 0; first < rows; first += at_once) {
    const std::int64_t n = std::min(at_once, rows - first);
    const MutMatrix part(values.data(), n, cols);
    const std::uint64_t row_bytes = bytes_of(type, static_cast<std::uint64_t>(cols));
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, n, 64), [&](const auto& range) {
      const std::int64_t count = range.end() - range.begin();
      read(first + range.begin(), part.rows_from(range.begin(), count));
      info(type).from_f32(part.row(range.begin()).data(),
                          bytes.data() + static_cast<std::uint64_t>(range.begin()) * row_bytes,
                          static_cast<std::size_t>(count * cols));
    });
    FETTLE_TRY(sink(std::span(bytes).first(static_cast<std::uint64_t>(n) * row_bytes)));
  }
  return {};
}

}  // namespace io_convert
