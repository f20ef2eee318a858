// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/io/checkpoint.h"

#include "convert.h"

#include <nlohmann/json.hpp>

#include <vector>

namespace io_convert {

using fettle::Status;
using namespace fettle::kit;

namespace {

bool is_number(const DenseTensor& t) {
  return t.packed != nullptr || (is_float(t.stored->dtype) && info(t.stored->dtype).to_f32 != nullptr);
}

/// Packed matrices are always [rows, cols].
Rows rows_of(const DenseTensor& t) {
  return t.packed != nullptr ? Rows{t.packed->rows(), t.packed->cols()} : Rows{t.stored->rows(), t.stored->cols()};
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
    return write_rows(
        rows_of(t), target.type, [&](std::int64_t first, MutMatrix out) { DenseCheckpoint::read(t, first, out); },
        sink);
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
