// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <string>
#include <utility>
#include <vector>

namespace fettle::kit {

/// Name and value, both as text, in a fixed order.
using ModelAttributes = std::vector<std::pair<std::string, std::string>>;

/// What a model artifact tells without its weights being read: the folder of a Hugging Face checkpoint, a GGUF file, or
/// a folder with one GGUF model (perhaps in parts). Those that the model does not tell are left out:
///
///   layout        hf, gguf
///   architecture  llama, ...: model_type or general.architecture
///   weights       type of the matrices: bf16, f16, ..., mixed; gguf.Q4_K_M, ...; gptq.int4, ... (quant_method and
///   bits) parameters    elements of all tensors; not told for packed integers (quantization_config) bytes         of
///   all tensors layers hidden ffn heads kv_heads vocab context tied          true if the output matrix is the
///   embedding, else false sparsity      what a pruner noted as fettle.sparsity in the safetensors or GGUF metadata
///
/// The digest of the tokenizer is not among them: see Tokenizer. Errors: those of Checkpoint and GgufReader. [any
/// thread]
Result<ModelAttributes> model_attributes(const std::string& folder_or_file);

}  // namespace fettle::kit
