// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "fettle/result.h"

namespace fettle::kit {

using Json = nlohmann::ordered_json;  // keeps the order of keys, so that a file read and written again stays in order

struct JsonLimits {
  std::size_t max_bytes = 64u << 20;
  int max_depth = 128;
};

/// Parses untrusted JSON: refuses duplicate keys, invalid UTF-8, trailing text, excess size and depth. The message has
/// line and column; `name` is what it calls the text (usually the path).
Result<Json> parse_json(std::string_view text, std::string_view name, JsonLimits limits = {});
Result<Json> read_json_file(const std::string& path, JsonLimits limits = {});

}  // namespace fettle::kit
