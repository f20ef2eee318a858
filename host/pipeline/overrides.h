// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/node.h"

#include <string>
#include <vector>

namespace fettle::host {

/// The keys a step may have.
const std::vector<std::string>& step_keys();

/// Maps merge deeply, lists and scalars replace, null removes.
void merge(Node& into, const Node& from);

/// Checks every profile of the pipeline and merges the chosen ones into it, left to right.
void apply_profiles(Node& root, const std::vector<std::string>& chosen, Diagnostics& diagnostics);

/// Applies "vars.keep=0.5" or "steps.healed.with.lr=2e-4".
void apply_set(Node& root, const std::string& set, Diagnostics& diagnostics);

}  // namespace fettle::host
