// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"

#include "importance.h"
#include "rows.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace quantize_gguf {

struct MetadataOptions {
  std::string pre;                                            ///< name of the pre-tokenizer; "": find out
  std::vector<std::pair<std::string, std::string>> metadata;  ///< keys to set or replace
  Mode mode = Mode::compatible;                               ///< told in the file where it is another
};

/// All keys of the file in the order of llama.cpp's quantizer; keys that the user sets come last, but for those that
/// say what the model is called. `parameters`: how many the model has.
fettle::Result<fettle::kit::GgufMetadata> all_metadata(const fettle::kit::Checkpoint& model,
                                                       const MetadataOptions& options, int file_type,
                                                       const Importance* importance, std::int64_t parameters);

}  // namespace quantize_gguf
