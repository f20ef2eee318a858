// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// One term of a port's `accepts`: "weights=f32|f16|bf16", or "tokenizer=@model" whose value comes from another port.
struct Constraint {
  std::string attribute;
  std::vector<std::string> values;  ///< allowed; '*' in one matches any text
  std::string port;                 ///< of "=@port", else ""
};

/// "layout=hf; weights=f32|f16; tokenizer=@model" (abi.h). Terms without '=' are left out.
std::vector<Constraint> parse_accepts(std::string_view text);

/// True if `text` matches `pattern`, in which '*' stands for any text.
bool matches(std::string_view pattern, std::string_view text);

}  // namespace fettle::host
