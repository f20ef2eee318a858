// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/safetensors.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace fettle::test {

/// Two blocks, hidden 32, 4 heads on 2 KV heads, vocabulary 48, context 64, untied.
kit::Json tiny_llama_config();

/// Name and shape of every tensor of a llama-like config, in f32.
std::vector<kit::TensorSpec> tiny_tensors(const kit::Json& config);

/// Writes config.json and model.safetensors into `folder` (which exists). The values depend on the tensor's name and
/// the seed alone.
Status write_tiny_model(const std::string& folder, const kit::Json& config, std::vector<kit::TensorSpec> tensors,
                        std::uint32_t seed = 1);
inline Status write_tiny_model(const std::string& folder, const kit::Json& config = tiny_llama_config(),
                               std::uint32_t seed = 1) {
  return write_tiny_model(folder, config, tiny_tensors(config), seed);
}

}  // namespace fettle::test
