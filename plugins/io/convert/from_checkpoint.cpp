// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/io/checkpoint.h"

#include "convert.h"

#include <nlohmann/json.hpp>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <vector>

namespace io_convert {

using fettle::Status;
using namespace fettle::kit;

namespace {

constexpr std::int64_t portion = 1 << 22;  // elements converted at a time

bool is_number(const DenseTensor& t) {
  return t.packed != nullptr || (is_float(t.stored->dtype) && info(t.stored->dtype).to_f32 != nullptr);
}

/// The tensor as rows; packed matrices are always [rows, cols].
struct Rows {
  std::int64_t rows, cols;
};
Rows rows_of(const DenseTensor& t) {
  return t.packed != nullptr ? Rows{t.packed->rows(), t.packed->cols()} : Rows{t.stored->rows(), t.stored->cols()};
}

Status write_rows(const DenseTensor& t, DType type, const TensorSink& sink) {
  const auto [rows, cols] = rows_of(t);
  const std::int64_t at_once = std::max<std::int64_t>(1, portion / std::max<std::int64_t>(1, cols));
  std::vector<float> values(static_cast<std::size_t>(std::min(at_once, rows) * cols));
  std::vector<std::byte> bytes(values.size() * bytes_of(type, 1));
  for (std::int64_t first = 0; first < rows; first += at_once) {
    const std::int64_t n = std::min(at_once, rows - first);
    const MutMatrix part(values.data(), n, cols);
    const std::uint64_t row_bytes = bytes_of(type, static_cast<std::uint64_t>(cols));
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, n, 64), [&](const auto& range) {
      const std::int64_t count = range.end() - range.begin();
      DenseCheckpoint::read(t, first + range.begin(), part.rows_from(range.begin(), count));
      info(type).from_f32(part.row(range.begin()).data(),
                          bytes.data() + static_cast<std::uint64_t>(range.begin()) * row_bytes,
                          static_cast<std::size_t>(count * cols));
    });
    FETTLE_TRY(sink(std::span(bytes).first(static_cast<std::uint64_t>(n) * row_bytes)));
  }
  return {};
}

const char* name_in_config(DType type) {
  return type == DType::f16 ? "float16" : type == DType::bf16 ? "bfloat16" : "float32";
}

}  // namespace

Status from_checkpoint(const std::string& folder, const Target& target, fettle::Context& context) {
  FETTLE_ASSIGN(const DenseCheckpoint model, DenseCheckpoint::open(folder));
  Json config = model.stored().config();
  config.erase("quantization_config");
  config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = name_in_config(target.type);
  std::vector<TensorSpec> specs;
  for (const DenseTensor& t : model.tensors())
    specs.push_back({t.name, is_number(t) ? target.type : t.stored->dtype, t.shape});
  std::uint64_t done = 0;
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    if (context.cancelled()) return fettle::cancelled_status();
    context.progress("tensors", done++, specs.size());
    const DenseTensor& t = *model.find(spec.name);
    if (t.packed == nullptr && (!is_number(t) || t.stored->dtype == target.type)) return sink(t.stored->bytes);
    return write_rows(t, target.type, sink);
  };
  CheckpointWriterOptions options;
  options.shard_bytes = target.shard_bytes;
  for (const SafetensorsReader& shard : model.stored().shards())
    if (const auto sparsity = shard.metadata().find("fettle.sparsity"); sparsity != shard.metadata().end())
      options.metadata.insert(*sparsity);
  FETTLE_TRY(write_checkpoint(target.folder, config, specs, source, folder, options));
  double packed = 0;
  for (const DenseTensor& t : model.tensors()) packed += t.packed != nullptr;
  context.metric("unpacked", packed);
  return {};
}

}  // namespace io_convert
