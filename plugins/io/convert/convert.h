// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/plugin.h"
#include "fettle_kit/tensor/dtype.h"

#include <cstdint>
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

}  // namespace io_convert
