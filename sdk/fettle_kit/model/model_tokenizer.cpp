// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/model_tokenizer.h"

#include "fettle_kit/io/gguf.h"
#include "fettle_kit/io/json.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/model_files.h"

#include <nlohmann/json.hpp>

namespace fettle::kit {

Result<Tokenizer> open_model_tokenizer(const std::string& path) {
  FETTLE_ASSIGN(const std::string gguf, gguf_file_of(path));
  if (gguf.empty()) return Tokenizer::open(path);
  FETTLE_ASSIGN(const GgufReader file, GgufReader::open_model(gguf));
  FETTLE_ASSIGN(const Json json, tokenizer_from_gguf(file));
  FETTLE_ASSIGN(const std::string text, json_text(json));
  return Tokenizer::parse(text, gguf);
}

}  // namespace fettle::kit
