// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/safetensors.h"

#include <cstddef>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// The tensors of a mixture of experts that gguf_experts() knows, by their Hugging Face names: all but the MLPs are
/// those of a dense family, then routers and the matrices of every expert. The types are left open. `name` is what
/// errors call the config; they are those of read_model_config() for that family, and corrupt_data if there would be
/// more experts in all than `most`, the tensors that there are.
Result<std::vector<TensorSpec>> mixture_tensors(const Json& config, std::string_view name, std::size_t most);

}  // namespace fettle::kit
