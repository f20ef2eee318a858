// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/tensor/dtype.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fettle::kit {

/// A type of whole GGUF files, by llama.cpp's name: one tensor type, or a mix of several by the tensor's role.
struct GgufFileType {
  std::string_view name;  ///< "Q4_K_M"
  int id;                 ///< general.file_type
  DType type;             ///< of tensors without a rule of their own
};

/// The file types we can write.
std::span<const GgufFileType> gguf_file_types();
/// By name, in any case; "Q4_K" means Q4_K_M and so on. Null if there is none.
const GgufFileType* find_gguf_file_type(std::string_view name);

/// What the rules look at besides the tensors.
struct GgufMixModel {
  std::string architecture;  ///< general.architecture
  std::int64_t layers = 0, heads = 0, kv_heads = 0;
  bool importance = false;   ///< there is an importance matrix
  std::int64_t experts = 0;  ///< of a mixture-of-experts model
};

struct GgufMixOptions {
  std::vector<std::pair<std::string, DType>> overrides;  ///< glob on the tensor's name; the first that matches wins
  std::optional<DType> output_type, embedding_type;
  bool keep_output = false;  ///< leave output.weight as it is in the source
};

struct GgufMixTensor {
  std::string name;        ///< GGUF name
  std::string other_name;  ///< another name that a glob may mean (of the checkpoint), or ""
  std::vector<std::int64_t> shape;
  DType source = DType::f32;  ///< type of a matrix that is not quantized
};

struct GgufMixChoice {
  DType type = DType::f32;
  std::optional<DType> wanted;  ///< the type that the width of the rows forbade
};

/// What is decided of a tensor before any rule of a mix.
struct GgufFixedType {
  bool quantized = true;      ///< false: vectors, norms, routers; `type` then says how they are stored
  std::optional<DType> type;  ///< by the options, if they name one
};
GgufFixedType fixed_gguf_type(const GgufMixTensor& tensor, const GgufMixOptions& options);

/// True if a tensor must not become `type` without importance: those types whose search depends on it and, as in
/// llama.cpp, for all matrices but the embedding and the head (which importance matrices rarely cover) IQ1_M, IQ2_S and
/// IQ3_XXS.
bool needs_gguf_importance(std::string_view tensor, DType type);

/// `type`, or what stands in for it where its block does not divide the rows.
DType gguf_type_that_fits(DType type, std::int64_t cols);

/// The type of each tensor, in the order of the file, by the rules of llama.cpp's quantizer; those that count layers
/// count in this order. Vectors and norms are f32. Rows that a type's block does not divide fall back: K types to the
/// next 32-wide type as llama.cpp, all else to f16, where llama.cpp stops.
/// invalid_argument where the rules choose a type that needs_gguf_importance and there is none.
Result<std::vector<GgufMixChoice>> choose_gguf_types(const GgufFileType& file, const GgufMixModel& model,
                                                     std::span<const GgufMixTensor> tensors,
                                                     const GgufMixOptions& options);

}  // namespace fettle::kit
