// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/io/safetensors.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fettle::kit {

/// All of a safetensors file that comes before the tensors: its length and the JSON. Tensors follow without gaps.
struct SafetensorsHeader {
  std::string bytes;
  std::vector<std::uint64_t> sizes;  ///< of the tensors, in the order of the specs
};

/// invalid_argument, beginning with `path`, for what cannot be stored. metadata always gets {"format": "pt"}.
Result<SafetensorsHeader> safetensors_header(const std::string& path, const std::vector<TensorSpec>& specs,
                                             std::map<std::string, std::string> metadata);

}  // namespace fettle::kit
