// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/calibrate/importance.h"
#include "fettle_kit/compress/slicing.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fettle::kit {

/// The ports of the techniques that cut a model smaller.
template <class Params>
Description<Params>& with_structured_pruning(Description<Params>& description) {
  return description
      .input("model", "model", "a Hugging Face checkpoint with plain weights", "layout=hf; weights=f32|f16|bf16|mixed")
      .optional_input("importance", "stats", "from calibrate.importance on this model",
                      "layers=@model; hidden=@model; ffn=@model; heads=@model; kv_heads=@model")
      .optional_input("calibration", "tokens", "text like what the model will read, to score and measure with",
                      "tokenizer=@model")
      .output("model", "model", "a smaller checkpoint of the same family; same types, kept weights bit for bit");
}

/// The checkpoint at the port "model"; unsupported for one whose weights are quantized.
Result<Checkpoint> open_dense(const Inputs& inputs);

/// Writes the checkpoint that keeps these parts, tokenizer and other files carried along. `norm_gain`: see
/// slice_scaling(). Returns the stored bytes of its tensors.
Result<std::uint64_t> write_sliced(const std::string& folder, const Checkpoint& dense, const KeptParts& kept,
                                   bool norm_gain);

/// The metrics parameters, parameters_before, bytes, bytes_before, layers, hidden, ffn, heads, kv_heads.
void report_sizes(const Context& context, const ModelConfig& before, std::uint64_t bytes_before,
                  const ModelConfig& after, std::uint64_t bytes);

/// Foretells the attributes of the output from those of the model, with these sizes (head_dim is not looked at): all
/// but what a cut loses (sparsity). Parameters and bytes are near, not exact, until the files say. `known` false: the
/// sizes are found while running; then `parameters`, if not 0, is all that is foretold.
void foretell_sizes(const Inputs& inputs, Estimate& estimate, const DecoderShape& sizes, bool known = true,
                    double parameters = 0);
/// The sizes that the attributes of the model tell; 0 where they do not.
DecoderShape foretold_shape(const Input& model);

/// The best `count` of the scores, ascending; of equal ones the first.
std::vector<std::int64_t> best(std::span<const float> scores, std::int64_t count);

/// Points of a series for each block: how many parts it keeps, and which share of its total score they hold.
void report_kept(const Context& context, const std::string& part, ConstMatrix scores,
                 const std::vector<std::vector<std::int64_t>>& kept);

}  // namespace fettle::kit
