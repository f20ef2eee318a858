// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/compress/gguf_budget.h"
#include "fettle_kit/compress/gguf_mix.h"
#include "fettle_kit/io/gguf.h"

#include "importance.h"
#include "metadata.h"
#include "rows.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace quantize_gguf {

struct Options {
  const fettle::kit::GgufFileType* file = nullptr;  ///< whose rules choose the types; not with a target
  std::optional<fettle::kit::SizeTarget> target;    ///< types are chosen by measured errors to fit this size
  fettle::kit::GgufMixOptions mix;
  MetadataOptions metadata;
  std::uint64_t part_bytes = 0;  ///< a new file begins before a tensor that would take one beyond this; 0: one file
  bool keep_nan = false;  ///< NaN and infinity are stored where the type can, and as 0 in block types; else an error
};

/// What becomes of a model, decided before anything is written.
struct Plan {
  std::vector<PlannedTensor> tensors;
  fettle::kit::GgufMetadata metadata;
  std::vector<std::string> warnings;
  std::int64_t parameters = 0;
  std::uint64_t source_bytes = 0;
  int file_type = 0;  ///< general.file_type

  std::int64_t weights() const;
};

/// Of one tensor in the file, without padding.
std::uint64_t stored_bytes(const PlannedTensor& tensor);

/// Borrows all arguments. With a target, reads weights to measure what each type costs, on the caller's TBB arena.
fettle::Result<Plan> plan_export(const fettle::kit::DenseCheckpoint& model, const Options& options,
                                 const Importance* importance, const std::function<bool()>& cancelled);

/// The choice as a Markdown table, a row a tensor.
std::string types_table(const Plan& plan);

}  // namespace quantize_gguf
