// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/dense_checkpoint.h"

#include "plan.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace quantize_gguf {

struct Progress {
  std::function<void(std::uint64_t done, std::uint64_t total)> report;  ///< in weights; from any thread
  std::function<bool()> cancelled;
};

/// Writes model.gguf into the folder, or model-00001-of-00003.gguf and so on. Streams the weights: rows are read,
/// converted and quantized in parallel on the caller's TBB arena and written in order meanwhile. Private memory is a
/// few MiB a thread, whatever the model. Same bytes for any thread count. Returns notes about weights that are no
/// numbers (only with keep_nan; otherwise they are an error).
fettle::Result<std::vector<std::string>> write_files(const std::string& folder,
                                                     const fettle::kit::DenseCheckpoint& model, const Plan& plan,
                                                     const Options& options, const Progress& progress);

}  // namespace quantize_gguf
