// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/io/output_file.h"
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/tensor/dtype.h"
#include "fettle_kit/text/tokenizer.h"

#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

/// The prose models, the text they are measured on, and their reference outputs. Throws where something is missing: ask
/// available() first.
namespace fettle::kit::prose {

inline const std::string shared = FETTLE_TEST_SHARED;

inline bool available() {
  return std::filesystem::exists(shared + "/models/prose-3m") &&
         std::filesystem::exists(shared + "/corpora/prose-val.txt") &&
         std::filesystem::exists(shared + "/goldens/prose-3m");
}

template <class T>
T must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.error().message());
  return *std::move(result);
}

inline Decoder decoder(const std::string& model) {
  return must(Decoder::open(must(Weights::open(shared + "/models/" + model))));
}
inline Tokenizer tokenizer(const std::string& model) { return must(Tokenizer::open(shared + "/models/" + model)); }
inline std::string text() { return must(read_text_file(shared + "/corpora/prose-val.txt")); }
inline SafetensorsReader golden(const std::string& model) {
  return must(SafetensorsReader::open(shared + "/goldens/" + model + "/golden.safetensors"));
}

inline const TensorView& tensor(const SafetensorsReader& file, const std::string& name) {
  const TensorView* found = file.find(name);
  if (!found) throw std::runtime_error("no tensor " + name);
  return *found;
}
inline std::vector<float> floats(const SafetensorsReader& file, const std::string& name) {
  const TensorView& t = tensor(file, name);
  std::vector<float> values(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), values.data(), values.size());
  return values;
}
/// i32 or i64.
inline std::vector<std::int32_t> ids(const SafetensorsReader& file, const std::string& name) {
  const TensorView& t = tensor(file, name);
  const std::size_t size = t.dtype == DType::i64 ? 8 : 4;
  std::vector<std::int32_t> values(static_cast<std::size_t>(t.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) std::memcpy(&values[i], t.bytes.data() + i * size, sizeof values[i]);
  return values;
}

}  // namespace fettle::kit::prose
