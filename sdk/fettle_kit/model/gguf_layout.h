// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/io/safetensors.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::kit {

/// How a Hugging Face checkpoint lies in a GGUF file: names, order of rows, metadata; for Llama (and Mistral), Qwen2,
/// Qwen3, Phi-3, Gemma 2 and 3, Mixtral and Qwen3's mixture of experts. Both ways, without the weights. The weights of
/// other families are refused by name.

/// general.architecture for a config.json: "llama", "qwen2", "qwen3", "qwen3moe", "phi3", "gemma2" or "gemma3".
Result<std::string> gguf_architecture(const Json& config);

/// A mixture of experts: what its MLPs are.
struct GgufExperts {
  std::string_view dense;                   ///< model_type of the family that is the same but for them
  std::string_view module, gate, up, down;  ///< "mlp", "gate_proj", ...: parts of the names of their matrices
  std::int64_t count = 0, used = 0, width = 0;
};
/// Nothing for other models.
std::optional<GgufExperts> gguf_experts(const Json& config);

/// The GGUF name of a tensor of a checkpoint, "" if GGUF has none for it. The parts of a fused tensor have the name of
/// the whole.
std::string gguf_name(std::string_view architecture, std::string_view hf_name);

/// The other way: the name in a checkpoint of a tensor of a GGUF file, "" if we know none. Factors of rope have none:
/// config_from_gguf says what they stand for.
std::string hf_name(std::string_view architecture, std::string_view gguf_name);

/// The name of one expert's matrix: hf_name() of a stack is without the number.
std::string hf_expert_name(std::string_view stack, std::int64_t expert);

/// The rows of q_proj and k_proj (weight and bias) are stored in another order: inside each head of D rows, row k of
/// the GGUF file is row (k % 2) * D/2 + k / 2 of the checkpoint, so that rope turns neighbours. Llama only.
bool gguf_reorders_rows(std::string_view architecture, std::string_view hf_name);
inline std::int64_t gguf_source_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t k = row % head_dim;
  return row - k + (k % 2) * (head_dim / 2) + k / 2;
}
/// The inverse: where in the GGUF file a row of the checkpoint is.
inline std::int64_t gguf_stored_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t k = row % head_dim, half = head_dim / 2;
  return row - k + (k % half) * 2 + k / half;
}

/// Whether GGUF stores 1 + the tensor of the checkpoint: the norms of Gemma.
bool gguf_adds_one(std::string_view architecture, std::string_view hf_name);

/// Whether a tensor of a GGUF file holds factors of rope.
bool is_gguf_rope_factors(std::string_view gguf_name);

/// One tensor of the GGUF file and where it comes from.
struct GgufTensor {
  std::string name;
  std::string hf_name;              ///< "" for factors of rope, which the config gives
  std::vector<std::string> parts;   ///< tensors of the checkpoint whose rows make it up, top to bottom: those that a
                                    ///< family fuses, or all experts'
  std::vector<std::int64_t> shape;  ///< row-major
  DType source = DType::f32;        ///< how the checkpoint stores it
  std::int64_t head_dim = 0;        ///< not 0: rows go through gguf_source_row
  bool plus_one = false;            ///< Gemma's norms, which GGUF stores as what they multiply by
  std::vector<float> factors;       ///< the values, where the checkpoint holds none
};

/// All tensors of the file in the order of llama.cpp's quantizer: those without a layer first, then layer by layer,
/// by name. `checkpoint` lists fused tensors in parts, as Checkpoint does. Rotary caches and scales of a cache of keys
/// and values are left out; any other tensor without a GGUF name is an error that names it. The matrices of experts are
/// stacked, [experts, rows, columns]; corrupt_data if one is missing or has another shape.
Result<std::vector<GgufTensor>> gguf_tensors(const Json& config, const std::vector<TensorSpec>& checkpoint);

/// The factors of Llama 3 rope scaling, [head_dim / 2]; empty if the config has none.
std::vector<float> gguf_rope_factors(const Json& config);

/// general.* and {architecture}.* as the converter writes them, without general.file_type and
/// general.quantization_version. `generation` is generation_config.json or null; `parameters` gives the size label.
Result<GgufMetadata> gguf_model_metadata(const Json& config, const Json& generation, std::int64_t parameters);

/// tokenizer.* from the tokenizer files of a checkpoint folder. `pre` overrides the name of the pre-tokenizer, which is
/// otherwise told by its split patterns; patterns that llama.cpp does not know are an error.
Result<GgufMetadata> gguf_tokenizer_metadata(const std::string& folder, const Json& config, const std::string& pre);

/// A config.json for the model in a GGUF file.
Result<Json> config_from_gguf(const GgufReader& file);

/// A tokenizer.json for the vocabulary in a GGUF file, so that kit/text can read it.
Result<Json> tokenizer_from_gguf(const GgufReader& file);

/// What transformers wants beside it, tokenizer_config.json: special tokens, what is put round a text, chat template.
Json tokenizer_config_from_gguf(const GgufReader& file);

/// generation_config.json: begin, end and padding, and the sampling that the file recommends.
Json generation_config_from_gguf(const GgufReader& file);

}  // namespace fettle::kit
