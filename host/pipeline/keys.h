// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/node.h"

#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// Reports every key of `map` that is not among `known`, with the nearest one that is. `what` is "step 'q4'" or "".
/// False if `map` is not a map (which is reported too).
bool check_keys(const Node& map, const std::vector<std::string>& known, const std::string& what,
                Diagnostics& diagnostics);

/// "; did you mean 'with'?", or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

/// "a, b, c"; at most a dozen, then how many more.
std::string listed(const std::vector<std::string>& names);

/// Names of steps, inputs, outputs, vars, axes and profiles: a letter or '_', then letters, digits, '_', '-'.
bool is_name(std::string_view text);
/// Reports a key that is not a name.
bool check_name(const Node& key, std::string_view what, Diagnostics& diagnostics);

/// The characters [offset, offset + length) of a scalar's text in the file; the whole scalar where escapes or line
/// folding hide the place.
SourceRange inside(const Node& scalar, std::size_t offset, std::size_t length);

}  // namespace fettle::host
