// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/safetensors.h"

#include <cstdint>
#include <string>
#include <vector>

namespace fettle::kit {

/// Some families store matrices that read the same input as one tensor, one above the other: phi3 has q, k and v in
/// self_attn.qkv_proj, gate and up in mlp.gate_up_proj. Checkpoint takes them apart at the door and CheckpointBuilder
/// puts them together again, so that everything between sees the seven linears that every family has.

/// The parts of a stored tensor, as views into its rows, from top to bottom; none if it is stored as it is called.
/// corrupt_data if its rows do not divide as the config says.
Result<std::vector<TensorView>> split_fused(const Json& config, const TensorView& stored);

/// A tensor as the file has it, and the parts that make it up.
struct StoredTensor {
  TensorSpec spec;
  std::vector<std::string> parts;  ///< names, top to bottom; of a tensor that is no fusion: its own
};

/// What a checkpoint with this config stores for tensors of these names: fusions stand where their first part stood.
/// invalid_argument if a part of one lacks its neighbours, or differs from them in type or width; unsupported if it is
/// anything but a plain weight: packed codes of different matrices cannot be put together.
Result<std::vector<StoredTensor>> join_fused(const Json& config, const std::vector<TensorSpec>& specs);

}  // namespace fettle::kit
