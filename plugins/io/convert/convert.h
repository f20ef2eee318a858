// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/plugin.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <functional>
#include <string>

namespace io_convert {

/// What every source becomes: a plain Hugging Face checkpoint.
struct Target {
  std::string folder;
  fettle::kit::DType type = fettle::kit::DType::bf16;  ///< of all floats
  std::uint64_t shard_bytes = 0;
};

/// A checkpoint folder, plain or in any quantized layout that the kit reads.
fettle::Status from_checkpoint(const std::string& folder, const Target& target, fettle::Context& context);

/// A GGUF file, or the first of the parts of a split one: any type that the kit reads. Writes config.json, the
/// tokenizer and generation_config.json from the file's metadata; warns where it holds no tokenizer we can write.
fettle::Status from_gguf(const std::string& file, const Target& target, fettle::Context& context);

/// config.json's name of a type.
const char* name_in_config(fettle::kit::DType type);

struct Rows {
  std::int64_t rows, cols;
};
/// Fills `out` [n, cols] with the rows from `first` on. [several threads at once]
using RowReader = std::function<void(std::int64_t first, fettle::kit::MutMatrix out)>;
/// Passes a tensor on as floats of this type, some rows at a time.
fettle::Status write_rows(Rows shape, fettle::kit::DType type, const RowReader& read,
                          const fettle::kit::TensorSink& sink);

/// Stores the 2:4 sparse matrices of a plain checkpoint compressed.
fettle::Status to_sparse24(const std::string& dense, const std::string& folder, std::uint64_t shard_bytes,
                           fettle::Context& context);

}  // namespace io_convert
