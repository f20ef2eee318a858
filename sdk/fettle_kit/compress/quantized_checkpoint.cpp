// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/quantized_checkpoint.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>

namespace fettle::kit {
namespace {

constexpr std::size_t portion = 1 << 18;  // elements converted at a time

bool converts(const TensorView& tensor, std::optional<DType> type) {
  return type && is_float(tensor.dtype) && info(tensor.dtype).to_f32 != nullptr && tensor.dtype != *type;
}

}  // namespace

std::string module_of(std::string_view weight) {
  constexpr std::string_view suffix = ".weight";
  return std::string(weight.ends_with(suffix) ? weight.substr(0, weight.size() - suffix.size()) : weight);
}

std::vector<std::string> dense_linears(const Checkpoint& model, const std::vector<std::string>& quantized) {
  std::vector<std::string> names;
  for (const TensorView* t : model.tensors()) {
    const bool linear = t->shape.size() == 2 && t->name.ends_with(".weight") && t->name != "lm_head.weight" &&
                        t->name.find("embed") == std::string::npos;
    if (linear && std::find(quantized.begin(), quantized.end(), t->name) == quantized.end())
      names.push_back(module_of(t->name));
  }
  if (std::find(quantized.begin(), quantized.end(), "lm_head.weight") == quantized.end()) names.push_back("lm_head");
  return names;
}

DType weight_type(const Checkpoint& model) {
  const TensorView* largest = nullptr;
  for (const TensorView* t : model.tensors()) {
    const bool plain = t->dtype == DType::f32 || t->dtype == DType::f16 || t->dtype == DType::bf16;
    if (plain && (largest == nullptr || t->elements() > largest->elements())) largest = t;
  }
  return largest == nullptr ? DType::f32 : largest->dtype;
}

TensorSpec carried_spec(const TensorView& t, std::optional<DType> dense_type) {
  return {t.name, converts(t, dense_type) ? *dense_type : t.dtype, t.shape};
}

Result<QuantizedWriter> QuantizedWriter::create(const std::string& folder, const Checkpoint& model,
                                                std::map<std::string, std::vector<TensorSpec>> replaced,
                                                const QuantizedOptions& options) {
  std::vector<TensorSpec> specs;
  std::map<std::string, std::vector<const TensorView*>> followers;
  std::string last;  // replaced tensor; "" before the first
  for (const TensorView* t : model.tensors()) {
    if (const auto found = replaced.find(t->name); found != replaced.end()) {
      specs.insert(specs.end(), found->second.begin(), found->second.end());
      last = t->name;
    } else {
      specs.push_back(carried_spec(*t, options.dense_type));
      followers[last].push_back(t);
    }
  }
  Json config = model.config();
  config["quantization_config"] = options.quantization_config;
  if (options.dense_type) {
    const char* const key = config.contains("torch_dtype") ? "torch_dtype" : "dtype";
    config[key] = *options.dense_type == DType::f16    ? "float16"
                  : *options.dense_type == DType::bf16 ? "bfloat16"
                                                       : "float32";
  }
  FETTLE_ASSIGN(CheckpointBuilder builder,
                CheckpointBuilder::create(folder, config, std::move(specs), model.folder(), options.checkpoint));
  for (const auto& [name, json] : options.files) FETTLE_TRY(write_json_file(folder + "/" + name, json));
  QuantizedWriter writer(model, std::move(builder));
  writer.replaced_ = std::move(replaced);
  writer.followers_ = std::move(followers);
  writer.dense_type_ = options.dense_type;
  FETTLE_TRY(writer.carry(writer.followers_[""]));
  return writer;
}

Status QuantizedWriter::carry(const std::vector<const TensorView*>& tensors) {
  for (const TensorView* t : tensors) {
    if (!converts(*t, dense_type_)) {
      FETTLE_TRY(builder_.append(t->name, t->bytes));
    } else {
      const auto total = static_cast<std::size_t>(t->elements());
      const std::uint64_t from = bytes_of(t->dtype, 1), to = bytes_of(*dense_type_, 1);
      std::vector<float> values(std::min(portion, total));
      std::vector<std::byte> bytes(values.size() * to);
      for (std::size_t done = 0; done < total; done += portion) {
        const std::size_t n = std::min(portion, total - done);
        info(t->dtype).to_f32(t->bytes.data() + done * from, values.data(), n);
        info(*dense_type_).from_f32(values.data(), bytes.data(), n);
        FETTLE_TRY(builder_.append(t->name, std::span(bytes).first(n * to)));
      }
    }
    model_->drop(*t);
  }
  return {};
}

Status QuantizedWriter::replace(const std::string& name, const std::vector<std::vector<std::byte>>& bytes) {
  const auto& specs = replaced_.at(name);
  for (std::size_t i = 0; i < specs.size(); ++i) FETTLE_TRY(builder_.append(specs[i].name, bytes[i]));
  return carry(followers_[name]);
}

Status QuantizedWriter::replace_values(const TensorView& tensor, std::span<const float> values) {
  const DType type = carried_spec(tensor, dense_type_).dtype;
  std::vector<std::byte> bytes(bytes_of(type, values.size()));
  info(type).from_f32(values.data(), bytes.data(), values.size());
  return replace(tensor.name, {std::move(bytes)});
}

Status QuantizedWriter::finish() { return builder_.finish(); }

}  // namespace fettle::kit
