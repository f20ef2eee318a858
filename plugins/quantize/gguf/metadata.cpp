// SPDX-License-Identifier: Apache-2.0
#include "metadata.h"

#include "fettle_kit/model/gguf_layout.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iterator>

namespace quantize_gguf {

namespace fs = std::filesystem;
using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

Status set_metadata(GgufMetadata& metadata, const std::string& key, const std::string& text) {
  const auto known =
      std::find_if(metadata.begin(), metadata.end(), [&](const auto& pair) { return pair.first == key; });
  GgufValue value = text;
  if (known != metadata.end()) {
    const auto fail = [&] {
      return Status(Code::invalid_argument,
                    fmt::format("metadata key '{}' cannot be '{}': it holds another type of value", key, text),
                    "metadata");
    };
    const char* end = text.data() + text.size();
    std::int64_t integer = 0;
    double real = 0;
    const bool is_integer = std::from_chars(text.data(), end, integer).ptr == end && !text.empty();
    const bool is_real = std::from_chars(text.data(), end, real).ptr == end && !text.empty();
    if (std::holds_alternative<std::uint32_t>(known->second)) {
      if (!is_integer || integer < 0 || integer > UINT32_MAX) return fail();
      value = static_cast<std::uint32_t>(integer);
    } else if (std::holds_alternative<std::int32_t>(known->second)) {
      if (!is_integer || integer < INT32_MIN || integer > INT32_MAX) return fail();
      value = static_cast<std::int32_t>(integer);
    } else if (std::holds_alternative<float>(known->second)) {
      if (!is_real) return fail();
      value = static_cast<float>(real);
    } else if (std::holds_alternative<bool>(known->second)) {
      if (text != "true" && text != "false") return fail();
      value = text == "true";
    } else if (!std::holds_alternative<std::string>(known->second)) {
      return fail();
    }
    metadata.erase(known);
  }
  metadata.emplace_back(key, std::move(value));
  return {};
}

/// What a model is called and where it comes from, in the order in which the converter writes it.
constexpr std::string_view kIdentity[] = {"name",         "author",      "version",      "organization", "finetune",
                                          "basename",     "description", "quantized_by", "license",      "license.name",
                                          "license.link", "url",         "doi",          "uuid",         "repo_url"};

/// Puts the identity keys that the user sets where the converter has them: with the name it guesses.
void set_identity(GgufMetadata& m, const std::vector<std::pair<std::string, std::string>>& wanted) {
  const auto place_of = [](std::string_view key) {
    if (key == "general.size_label") return std::size_t{8};  // before the license
    for (std::size_t i = 0; i < std::size(kIdentity); ++i)
      if (key.starts_with("general.") && key.substr(8) == kIdentity[i]) return i < 8 ? i : i + 1;
    return std::size(kIdentity) + 1;
  };
  for (const auto& [key, text] : wanted) {
    const std::size_t place = place_of(key);
    if (place > std::size(kIdentity)) continue;
    auto at = std::find_if(m.begin(), m.end(), [](const auto& pair) { return pair.first == "general.name"; });
    while (place_of(at->first) < place) ++at;
    if (at->first == key)
      at->second = text;
    else
      m.emplace(at, key, text);
  }
}

/// llama.cpp takes a model with "phi-3" or "phi3" in its name for the original, whose special tokens swallow spaces
/// behind them, and does not load it without the four tokens of that vocabulary. `given`: the user chose the name.
Status check_name(GgufMetadata& m, bool given) {
  const auto find = [&](std::string_view key) {
    return std::find_if(m.begin(), m.end(), [&](const auto& pair) { return pair.first == key; });
  };
  std::string& name = std::get<std::string>(find("general.name")->second);
  std::string lower = name;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (lower.find("phi-3") == std::string::npos && lower.find("phi3") == std::string::npos) return {};
  const auto at = find("tokenizer.ggml.tokens");
  const auto* tokens = at == m.end() ? nullptr : std::get_if<std::vector<std::string>>(&at->second);
  for (const char* token : {"</s>", "<unk>", "<s>", "<|endoftext|>"}) {
    if (tokens == nullptr || std::find(tokens->begin(), tokens->end(), token) != tokens->end()) continue;
    if (given)
      return {Code::invalid_argument,
              fmt::format("llama.cpp does not load a model called '{}' whose vocabulary has no token '{}': it takes it "
                          "for the original Phi-3; choose another 'general.name'",
                          name, token),
              "metadata"};
    const auto size = find("general.size_label");
    name = size == m.end() ? "model" : "model-" + std::get<std::string>(size->second);
    return {};
  }
  return {};
}

}  // namespace

Result<GgufMetadata> all_metadata(const Checkpoint& model, const MetadataOptions& options, int file_type,
                                  const Importance* importance, std::int64_t parameters) {
  const fs::path generation_file = fs::path(model.folder()) / "generation_config.json";
  Json generation;
  std::error_code error;
  if (fs::exists(generation_file, error)) {
    FETTLE_ASSIGN(generation, read_json_file(generation_file.string()));
  }
  FETTLE_ASSIGN(GgufMetadata m, gguf_model_metadata(model.config(), generation, parameters));
  set_identity(m, options.metadata);
  FETTLE_ASSIGN(const GgufMetadata tokenizer, gguf_tokenizer_metadata(model.folder(), model.config(), options.pre));
  m.insert(m.end(), tokenizer.begin(), tokenizer.end());
  const bool named = std::any_of(options.metadata.begin(), options.metadata.end(),
                                 [](const auto& pair) { return pair.first == "general.name"; });
  FETTLE_TRY(check_name(m, named));
  m.emplace_back("general.quantization_version", std::uint32_t{2});
  m.emplace_back("general.file_type", static_cast<std::uint32_t>(file_type));
  if (options.mode == Mode::better) m.emplace_back("fettle.quantize.mode", std::string("better"));
  for (const auto& [key, value] : options.metadata) {
    const auto known = std::find_if(m.begin(), m.end(), [&](const auto& pair) { return pair.first == key; });
    if (known == m.end() || known->second != GgufValue(value)) FETTLE_TRY(set_metadata(m, key, value));
  }
  if (importance)
    for (auto& pair : importance->metadata()) m.push_back(std::move(pair));
  return m;
}

}  // namespace quantize_gguf
