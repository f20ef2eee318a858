// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fettle::kit {

// The parts that messages about files are made of. [any thread]

/// In single quotes, safe to print: control characters and invalid UTF-8 as \xNN, and cut after 80 characters.
std::string in_quotes(std::string_view text);
/// With thousands separators: 5,368,709,120.
std::string grouped(std::uint64_t number);
/// The system's words for an errno value, in lower case: "permission denied".
std::string errno_text(int error);
/// Well-formed by the Unicode standard, table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace fettle::kit
