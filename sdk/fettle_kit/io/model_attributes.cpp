// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/model_attributes.h"

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <set>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

/// Collects attributes; an empty value is one that the model does not tell.
class Attributes {
 public:
  void add(const char* name, std::string value) {
    if (!value.empty()) list_.emplace_back(name, std::move(value));
  }
  ModelAttributes take() && { return std::move(list_); }

 private:
  ModelAttributes list_;
};

/// What the tensors sum up to.
class TensorTotals {
 public:
  void add(const TensorView& tensor) {
    elements_ += static_cast<std::uint64_t>(tensor.elements());
    bytes_ += tensor.bytes.size();
    (tensor.shape.size() >= 2 ? matrix_types_ : other_types_).insert(tensor.dtype);
  }
  std::string elements() const { return std::to_string(elements_); }
  std::string bytes() const { return std::to_string(bytes_); }
  /// Of the matrices; norms and biases are often kept in a wider type.
  std::string type() const {
    const std::set<DType>& types = matrix_types_.empty() ? other_types_ : matrix_types_;
    if (types.empty()) return "";
    return types.size() == 1 ? std::string(info(*types.begin()).name) : "mixed";
  }

 private:
  std::uint64_t elements_ = 0, bytes_ = 0;
  std::set<DType> matrix_types_, other_types_;
};

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  return found->is_number_integer() ? found->dump() : "";
}

/// gptq.int4, compressed-tensors.pack-quantized, modelopt.NVFP4, fp8
std::string quantization_of(const Json& config) {
  const std::string method = text_of(config, "quant_method");
  if (const std::string bits = text_of(config, "bits"); !bits.empty()) return method + ".int" + bits;
  if (const std::string format = text_of(config, "format"); !format.empty()) return method + "." + format;
  if (const std::string algorithm = text_of(config, "quant_algo"); !algorithm.empty()) return method + "." + algorithm;
  return method;
}

bool is_tied(const Checkpoint& checkpoint) {
  const auto flag = checkpoint.config().find("tie_word_embeddings");
  if (flag != checkpoint.config().end() && flag->is_boolean()) return flag->get<bool>();
  return checkpoint.find("lm_head.weight") == nullptr;
}

Result<ModelAttributes> checkpoint_attributes(const std::string& folder) {
  FETTLE_ASSIGN(const Checkpoint checkpoint, Checkpoint::open(folder));
  const Json& config = checkpoint.config();
  const auto nested = config.find("text_config");  // the language part of a model of several kinds of input
  const Json& text = nested != config.end() && nested->is_object() ? *nested : config;
  TensorTotals totals;
  for (const TensorView* tensor : checkpoint.tensors()) totals.add(*tensor);

  const auto quantization = config.find("quantization_config");
  const bool packed = quantization != config.end() && quantization->is_object();
  Attributes attributes;
  attributes.add("layout", "hf");
  attributes.add("architecture", text_of(config, "model_type"));
  attributes.add("weights", packed ? quantization_of(*quantization) : totals.type());
  attributes.add("parameters", packed ? "" : totals.elements());
  attributes.add("bytes", totals.bytes());
  attributes.add("layers", text_of(text, "num_hidden_layers"));
  attributes.add("hidden", text_of(text, "hidden_size"));
  attributes.add("ffn", text_of(text, "intermediate_size"));
  const std::string heads = text_of(text, "num_attention_heads"), kv_heads = text_of(text, "num_key_value_heads");
  attributes.add("heads", heads);
  attributes.add("kv_heads", kv_heads.empty() ? heads : kv_heads);
  attributes.add("vocab", text_of(text, "vocab_size"));
  attributes.add("context", text_of(text, "max_position_embeddings"));
  attributes.add("tied", is_tied(checkpoint) ? "true" : "false");
  for (const SafetensorsReader& shard : checkpoint.shards()) {
    const auto sparsity = shard.metadata().find("fettle.sparsity");
    if (sparsity == shard.metadata().end()) continue;
    attributes.add("sparsity", sparsity->second);
    break;
  }
  return std::move(attributes).take();
}

/// A number that may be given per layer: then it is told only if it is the same in all.
std::string number_of(const GgufReader& reader, const std::string& key) {
  const GgufValue* value = reader.find(key);
  if (value == nullptr) return "";
  if (const std::int64_t number = reader.integer(key, -1); number >= 0) return std::to_string(number);
  const auto uniform = [](const auto* items) {
    const bool same = items && !items->empty() && std::equal(items->begin() + 1, items->end(), items->begin());
    return same ? std::to_string(items->front()) : std::string();
  };
  const std::string same = uniform(std::get_if<std::vector<std::int32_t>>(value));
  return same.empty() ? uniform(std::get_if<std::vector<std::uint32_t>>(value)) : same;
}

std::string vocabulary_of(const GgufReader& reader, const std::string& architecture) {
  const std::string size = number_of(reader, architecture + ".vocab_size");
  if (!size.empty()) return size;
  const auto* tokens = reader.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  return tokens ? std::to_string(tokens->size()) : "";
}

Result<ModelAttributes> gguf_attributes(const std::string& path) {
  FETTLE_ASSIGN(const std::vector<std::string> files, gguf_files(path));
  std::vector<GgufReader> readers;
  TensorTotals totals;
  bool tied = true;
  for (const std::string& file : files) {
    FETTLE_ASSIGN(GgufReader reader, GgufReader::open(file));
    for (const TensorView& tensor : reader.tensors()) totals.add(tensor);
    tied = tied && reader.tensor("output.weight") == nullptr;
    readers.push_back(std::move(reader));
  }
  const GgufReader& first = readers.front();  // of a model in parts, the one with the metadata
  const std::string architecture = first.text("general.architecture");
  const auto number = [&](const char* key) { return number_of(first, architecture + "." + key); };
  const std::string_view file_type = gguf_file_type_name(first.integer("general.file_type", -1));

  Attributes attributes;
  attributes.add("layout", "gguf");
  attributes.add("architecture", architecture);
  attributes.add("weights", "gguf." + (file_type.empty() ? totals.type() : std::string(file_type)));
  attributes.add("parameters", totals.elements());
  attributes.add("bytes", totals.bytes());
  attributes.add("layers", number("block_count"));
  attributes.add("hidden", number("embedding_length"));
  attributes.add("ffn", number("feed_forward_length"));
  const std::string heads = number("attention.head_count");
  attributes.add("heads", heads);
  attributes.add("kv_heads",
                 first.find(architecture + ".attention.head_count_kv") ? number("attention.head_count_kv") : heads);
  attributes.add("vocab", vocabulary_of(first, architecture));
  attributes.add("context", number("context_length"));
  attributes.add("tied", tied ? "true" : "false");
  attributes.add("sparsity", first.text("fettle.sparsity"));
  return std::move(attributes).take();
}

}  // namespace

Result<ModelAttributes> model_attributes(const std::string& folder_or_file) {
  std::error_code error;
  if (!fs::is_directory(folder_or_file, error)) {
    if (fs::path(folder_or_file).extension() != ".safetensors") return gguf_attributes(folder_or_file);
    return Status(Code::invalid_argument,
                  folder_or_file + ": is weights alone; name the folder of the Hugging Face checkpoint it belongs to");
  }
  // A checkpoint folder may hold a converted GGUF beside it; a folder without config.json can only be GGUF.
  if (fs::exists(fs::path(folder_or_file) / "config.json", error)) return checkpoint_attributes(folder_or_file);
  for (fs::directory_iterator entry(folder_or_file, error), end; !error && entry != end; entry.increment(error))
    if (entry->path().extension() == ".gguf") return gguf_attributes(folder_or_file);
  return Status(Code::not_found,
                folder_or_file +
                    ": holds neither 'config.json' nor a GGUF file, expected a Hugging Face checkpoint or a "
                    "GGUF model");
}

}  // namespace fettle::kit
