// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/json.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace fettle::kit::gguf_tokenizer {

/// The keys tokenizer.ggml.*_token_id and tokenizer.ggml.add_*_token, in the order of llama.cpp's converter: which
/// token is BOS and so on (the texts of tokenizer_config.json, then the ids of config.json), and which are put round a
/// text (the post-processor of tokenizer.json, then tokenizer_config.json).
///
///   added_token   id of a text among the added tokens
///   vocab_size    ids from here on are left out
GgufMetadata special_token_metadata(const Json& tokenizer, Json settings, const Json& config,
                                    const std::function<std::optional<std::int64_t>(std::string_view)>& added_token,
                                    std::int64_t vocab_size);

}  // namespace fettle::kit::gguf_tokenizer
