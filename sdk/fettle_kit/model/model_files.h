// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <string>

namespace fettle::kit {

/// The GGUF file a model artifact consists of: `path` itself, or the one *.gguf in that folder, or the first
/// part of the one model in it; "" if `path` is a folder
/// with a config.json, a Hugging Face checkpoint. Errors: not_found for neither, invalid_argument for several GGUF
/// files.
Result<std::string> gguf_file_of(const std::string& path);

}  // namespace fettle::kit
