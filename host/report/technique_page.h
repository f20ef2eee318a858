// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/plugin/registry.h"

#include <nlohmann/json_fwd.hpp>

#include <string>

namespace fettle::host {

// A technique's table, for people and programs. Nothing in it depends on the machine.

std::string technique_text(const Technique& technique);
/// The reference page docs/reference/techniques/<id>.md.
std::string technique_markdown(const Technique& technique);
nlohmann::ordered_json technique_json(const Technique& technique);
/// The index of the reference pages.
std::string techniques_markdown(const std::vector<const Technique*>& techniques);

/// "float", "list of string", "map of int": as the reference writes types.
std::string type_text(const fettle_param& param);
/// "0 to 1", "at least 1", "one of fast, slow", or "".
std::string range_text(const fettle_param& param);
/// The default of a parameter as JSON: flow YAML of numbers, lists and maps is JSON, the rest a string.
nlohmann::ordered_json default_json(const fettle_param& param);

}  // namespace fettle::host
