// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/gguf_mix.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/model/gguf_layout.h"

#include "importance.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quantize_gguf {

struct Options {
  const fettle::kit::GgufFileType* file = nullptr;
  fettle::kit::GgufMixOptions mix;
  std::string pre;                                            ///< name of the pre-tokenizer; "": find out
  std::vector<std::pair<std::string, std::string>> metadata;  ///< keys to set or replace
  bool keep_nan = false;  ///< NaN and infinity are stored where the type can, and as 0 in block types; else an error
};

/// One tensor of the file: where it comes from and what becomes of it.
struct PlannedTensor {
  fettle::kit::GgufTensor layout;
  const fettle::kit::TensorView* source = nullptr;  ///< null: computed
  fettle::kit::GgufMixChoice choice;
  std::span<const float> importance;  ///< of the columns; empty: all the same
};

struct Plan {
  std::vector<PlannedTensor> tensors;
  fettle::kit::GgufMetadata metadata;
  std::vector<std::string> warnings;
  std::int64_t parameters = 0;
};

/// Decides everything that can go wrong before the first weight is read. Borrows all arguments.
fettle::Result<Plan> plan_export(const fettle::kit::Checkpoint& model, const Options& options,
                                 const Importance* importance);

struct Progress {
  std::function<void(std::uint64_t done, std::uint64_t total)> report;  ///< in weights; from any thread
  std::function<bool()> cancelled;
};

/// Streams the weights into the file: rows are read, converted and quantized in parallel on the caller's TBB arena and
/// written in order meanwhile. Private memory is a few MiB a thread, whatever the model. Same bytes for any thread
/// count. Returns notes about weights that are no numbers (only with keep_nan; otherwise they are an error).
fettle::Result<std::vector<std::string>> write_file(const std::string& path, const fettle::kit::Checkpoint& model,
                                                    const Plan& plan, const Options& options, const Progress& progress);

}  // namespace quantize_gguf
