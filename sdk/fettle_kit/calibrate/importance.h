// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle/technique.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/text/token_set.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace fettle::kit {

/// How much calibration text uses each part of a decoder (Muralidharan et al. 2024, arXiv:2407.14679, section 2.2; Men
/// et al. 2024, arXiv:2403.03853, section 3.1 for blocks). Channels are scored as SequenceMagnitudes. The content of a
/// "stats" artifact: importance.safetensors, docs/reference/artifacts.md.
struct Importance {
  std::string model;                       ///< digest of the model it was measured on; "": unknown
  std::int64_t sequences = 0, length = 0;  ///< of the calibration text
  Rows ffn;                                ///< [layers, ffn], of down_proj's inputs
  Rows heads;                              ///< [layers, heads], L2 over the channels of a head in o_proj's input
  Rows norms;                              ///< [2 layers, hidden], of the outputs of each block's two input norms
  std::vector<float> influence;            ///< [layers], 1 - mean over tokens of cos(block input, block output)

  std::int64_t layers() const { return ffn.rows(); }
  /// [hidden], the sum of `norms` over all of them: one ranking for the whole model.
  std::vector<float> hidden() const;

  Status save(const std::string& folder) const;
  /// corrupt_data if the file is not as save() writes it, or holds what is no score.
  static Result<Importance> open(const std::string& folder);
};

/// One forward pass of the tokens through the dense model, block by block. `stop` is polled between portions,
/// `progress(done, layers)` told after each block; both may be empty. Errors: those of BlockWalk, fewer than
/// least_importance_tokens, activations that are no numbers.
Result<Importance> measure_importance(const Decoder& model, const TokenSet& tokens, std::function<bool()> stop = {},
                                      const std::function<void(std::int64_t, std::int64_t)>& progress = {});

/// Below this a ranking is noise; below few_importance_tokens it still changes with the choice of the text.
inline constexpr std::int64_t least_importance_tokens = 256;
inline constexpr std::uint64_t few_importance_tokens = 8192;
/// The error for too few tokens, at the port "calibration".
Status check_importance_tokens(std::int64_t tokens);

/// invalid_argument at the port "importance" if it cannot be of this model: another shape, or another digest (either
/// may be "").
Status check_same_model(const Importance& importance, const ModelConfig& config, std::string_view digest);

/// The text of that error for two digests: planning knows them too.
Status other_model(std::string_view measured_on, std::string_view digest);

/// What a structured technique goes by: the artifact at the port "importance" if connected, else measured with the one
/// at "calibration"; one of them must be. Warns of few tokens.
Result<Importance> importance_of(Context& context, const Decoder& model);
/// The same question at plan time: tokens enough, or an importance of this model.
Status check_importance_inputs(const Inputs& inputs);

/// Memory of measure_importance() beyond the mapped weights, from the attributes of the ports "model" and
/// "calibration".
double importance_bytes(const Inputs& inputs);

}  // namespace fettle::kit
