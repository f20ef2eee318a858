// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// True if `pattern` matches the whole of `name`: '*' is any run of characters (dots too), '?' any one character,
/// everything else itself. Linear in the name for any pattern.
bool glob_match(std::string_view pattern, std::string_view name);

/// Index of the first pattern that matches, or -1.
int first_match(const std::vector<std::string>& patterns, std::string_view name);

}  // namespace fettle::kit
