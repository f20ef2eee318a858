// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <nlohmann/json_fwd.hpp>  // whoever looks into a Json includes <nlohmann/json.hpp> in the .cpp

#include <cstddef>
#include <string>
#include <string_view>

namespace fettle::kit {

/// Keeps the order of keys, so that a file read and written again stays in order. Looking a key up takes time
/// proportional to the keys before it: walk large objects (a vocabulary) with items(), do not index them.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  std::size_t max_bytes = 64u << 20;
  int max_depth = 128;  ///< of nested arrays and objects
};

/// Parses untrusted JSON: refuses duplicate keys, invalid UTF-8, trailing text, excess size and depth. The message has
/// line and column; `name` is what it calls the text (usually the path). Integers stay exact up to 64 bits.
/// corrupt_data. [any thread]
Result<Json> parse_json(std::string_view text, std::string_view name, JsonLimits limits = {});
Result<Json> read_json_file(const std::string& path, JsonLimits limits = {});

/// Indented by two, with a line end: how transformers writes its files. invalid_argument if a string is not UTF-8.
Result<std::string> json_text(const Json& json);
Status write_json_file(const std::string& path, const Json& json);

}  // namespace fettle::kit
