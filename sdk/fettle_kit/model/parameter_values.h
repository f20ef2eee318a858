// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/model/weights.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fettle::kit {

/// What a tensor of a decoder is for.
enum class TensorRole { embedding, head, linear, bias, norm };

struct ModelTensor {
  std::string name;  ///< of Hugging Face
  TensorRole role;
  std::vector<std::int64_t> shape;
  std::int64_t layer = -1;  ///< of a block's tensor
};

/// Every tensor that the model reads, in its order; a tied head is no tensor of its own.
std::vector<ModelTensor> model_tensors(const ModelConfig& config);

/// Writes what the file holds for a tensor into `values` [rows, cols], in the order and meaning of Hugging Face.
Status read_values(MutMatrix values, const ModelTensor& tensor, const Weights& weights);

/// Writes the values that training from scratch starts with: see Network::create.
void initial_values(MutMatrix values, const ModelTensor& tensor, const ModelConfig& config, std::uint64_t seed,
                    double deviation);

}  // namespace fettle::kit
