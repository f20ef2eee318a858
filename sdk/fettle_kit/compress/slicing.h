// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/checkpoint.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fettle::kit {

/// Sizes of a decoder along the axes that can be cut.
struct DecoderShape {
  std::int64_t layers = 0, hidden = 0, ffn = 0, heads = 0, kv_heads = 0, head_dim = 0;
};

/// Which parts of a decoder stay, and in which order: indices into the dense model. Another order is the same model.
struct KeptParts {
  std::vector<std::int64_t> layers;  ///< blocks, ascending: their order is the model's
  std::vector<std::int64_t> hidden;  ///< channels of the residual stream: one list, all blocks share it
  std::vector<std::vector<std::int64_t>> ffn, heads, kv_heads;  ///< [dense layers], each as long as the others

  static KeptParts all(const DecoderShape& dense);
  /// Of what stays; the sizes of the first kept block.
  DecoderShape shape(const DecoderShape& dense) const;
};

/// invalid_argument unless every list is of distinct indices in range and not empty, the blocks keep equally many, and
/// every kept KV head is followed, in its order, by equally many query heads of its own.
Status check_kept(const KeptParts& kept, const DecoderShape& dense);

/// What stored values are multiplied by, where cutting the residual stream changes their meaning: norms average over
/// fewer channels, and gemma's embedding is scaled by sqrt(hidden).
struct SliceScaling {
  double norms = 1, final_norm = 1, embedding = 1;
  bool unit_offset = false;  ///< norms store gain - 1
};

/// How one stored tensor becomes one of the smaller model.
struct TensorSlice {
  const TensorView* source = nullptr;
  TensorSpec spec;                       ///< its name and shape in the smaller model
  std::vector<std::int64_t> rows, cols;  ///< that stay; empty: all
  double factor = 1, offset = 0;         ///< value -> (value + offset) * factor - offset
};

/// Every tensor of the smaller model, by the Hugging Face names of the llama-like families: embedding, head, norms
/// over the residual stream and over heads, the seven linears with their biases. unsupported for a tensor of another
/// name, whose axes nobody knows; corrupt_data for one of another shape.
Result<std::vector<TensorSlice>> slice_tensors(const Checkpoint& dense, const DecoderShape& shape,
                                               const KeptParts& kept, const SliceScaling& scaling = {});

/// Writes them as a checkpoint, streamed: rows are copied byte for byte but for those that are scaled. `config` and
/// the files of dense.folder() as write_checkpoint().
Status write_slices(const std::string& folder, const Json& config, const Checkpoint& dense,
                    const std::vector<TensorSlice>& slices, const std::map<std::string, std::string>& metadata = {});

}  // namespace fettle::kit
