// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/text/tokenizer.h"

#include <string>

namespace fettle::kit {

/// The tokenizer a model artifact carries: tokenizer.json of a checkpoint folder, the vocabulary of a GGUF file.
Result<Tokenizer> open_model_tokenizer(const std::string& path);

}  // namespace fettle::kit
