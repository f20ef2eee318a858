// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/weights.h"

#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/io/fused_tensors.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/model/gguf_layout.h"
#include "fettle_kit/model/model_files.h"
#include "fettle_kit/tensor/dtype.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <map>
#include <optional>
#include <utility>

namespace fettle::kit {
namespace {

std::string shown(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace

/// The open file or files, and where in them a Hugging Face name is found.
struct Weights::Source {
  std::string path;
  ModelConfig config;
  std::optional<DenseCheckpoint> checkpoint;
  std::optional<GgufReader> gguf;                        // one of the two
  std::string architecture;                              // of the GGUF file
  std::map<std::string, TensorView, std::less<>> parts;  // of its fused tensors, by their Hugging Face names

  /// A tensor of the model; both null if it is missing.
  struct Found {
    const TensorView* stored = nullptr;
    const PackedMatrix* packed = nullptr;
    std::vector<std::int64_t> shape;
    explicit operator bool() const { return stored != nullptr || packed != nullptr; }
  };
  Found find(const std::string& name) const {
    if (gguf) {
      const TensorView* const tensor = stored(name);
      return tensor ? Found{tensor, nullptr, tensor->shape} : Found{};
    }
    const DenseTensor* const tensor = checkpoint->find(name);
    return tensor ? Found{tensor->stored, tensor->packed, tensor->shape} : Found{};
  }
  /// What a linear's inputs are rounded to.
  InputGrid inputs(const std::string& name) const {
    const DenseTensor* const tensor = checkpoint ? checkpoint->find(name) : nullptr;
    return tensor ? tensor->inputs : InputGrid{};
  }
  void drop(const std::string& name) const {
    if (gguf) {
      if (const TensorView* const tensor = stored(name)) gguf->drop(*tensor);
    } else if (const DenseTensor* const tensor = checkpoint->find(name)) {
      for (const TensorView* const part : tensor->parts) checkpoint->stored().drop(*part);
    }
  }
  /// Of the GGUF file; null if it is missing.
  const TensorView* stored(const std::string& name) const {
    const auto part = parts.find(name);
    return part != parts.end() ? &part->second : gguf->tensor(gguf_name(architecture, name));
  }
  /// The name as messages show it: as it stands in the file.
  std::string stored_name(const std::string& name) const { return gguf ? gguf_name(architecture, name) : name; }
  std::uint64_t bytes() const {
    std::uint64_t total = 0;
    if (gguf)
      for (const TensorView& tensor : gguf->tensors()) total += tensor.bytes.size();
    else
      for (const TensorView* tensor : checkpoint->stored().tensors()) total += tensor->bytes.size();
    return total;
  }
};

namespace {

/// GGUF files hold the factors of Llama 3 rope scaling themselves; they are exact where the metadata is not.
Status divide_by_rope_factors(const GgufReader& file, Rope& rope) {
  const TensorView* tensor = file.tensor("rope_freqs.weight");
  std::vector<float> factors(rope.frequencies.size());
  if (tensor->dtype != DType::f32 || tensor->elements() != static_cast<std::int64_t>(factors.size()))
    return {Code::corrupt_data,
            fmt::format("{}: tensor 'rope_freqs.weight' is not {} f32 numbers", file.path(), factors.size())};
  info(DType::f32).to_f32(tensor->bytes.data(), factors.data(), factors.size());
  for (std::size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0))
      return {Code::corrupt_data,
              fmt::format("{}: tensor 'rope_freqs.weight' holds {}, which is no factor", file.path(), factors[i])};
    rope.frequencies[i] /= factors[i];
  }
  return {};
}

}  // namespace

Result<Weights> Weights::open(const std::string& path) {
  auto source = std::make_shared<Source>();
  FETTLE_ASSIGN(const std::string gguf, gguf_file_of(path));
  source->path = gguf.empty() ? path : gguf;
  if (gguf.empty()) {
    FETTLE_ASSIGN(source->checkpoint, DenseCheckpoint::open(path));
    Json config = source->checkpoint->stored().config();
    config.erase("quantization_config");  // what it says is done with
    FETTLE_ASSIGN(source->config, read_model_config(config, path + "/config.json"));
  } else {
    FETTLE_ASSIGN(source->gguf, GgufReader::open_model(gguf));
    FETTLE_ASSIGN(Json config, config_from_gguf(*source->gguf));
    FETTLE_ASSIGN(source->architecture, gguf_architecture(config));
    const bool factors = source->gguf->tensor("rope_freqs.weight") != nullptr;
    if (factors) config.erase("rope_scaling");
    FETTLE_ASSIGN(source->config, read_model_config(config, gguf));
    if (factors) FETTLE_TRY(divide_by_rope_factors(*source->gguf, source->config.rope));
    for (TensorView tensor : source->gguf->tensors()) {
      tensor.name = hf_name(source->architecture, tensor.name);
      FETTLE_ASSIGN(std::vector<TensorView> parts, split_fused(config, tensor));
      for (TensorView& part : parts) source->parts.emplace(part.name, std::move(part));
    }
  }
  return Weights(std::move(source));
}

const ModelConfig& Weights::config() const { return source_->config; }
bool Weights::from_gguf() const { return source_->gguf.has_value(); }
std::uint64_t Weights::bytes() const { return source_->bytes(); }

Result<StoredMatrix> Weights::find(const std::string& name, std::vector<std::int64_t> shape) const {
  const Source::Found found = source_->find(name);
  const auto fail = [&](Code code, const std::string& problem) {
    return Status(code, fmt::format("{}: tensor '{}' {}", source_->path, source_->stored_name(name), problem));
  };
  if (!found) return fail(Code::corrupt_data, "is missing");
  if (found.shape != shape)
    return fail(Code::corrupt_data, fmt::format("has shape {}, but {} asks for {}", shown(found.shape),
                                                from_gguf() ? "the metadata" : "config.json", shown(shape)));
  const std::int64_t rows = shape.size() == 2 ? shape[0] : 1, cols = shape.back();
  if (found.packed) return StoredMatrix{nullptr, DType::f32, rows, cols, found.packed};
  const DTypeInfo& type = info(found.stored->dtype);
  if (!is_float(found.stored->dtype) && type.block_elems == 1)
    return fail(Code::unsupported, fmt::format("is of type {}, which does not hold weights", type.name));
  if (!type.to_f32) return fail(Code::unsupported, fmt::format("is of type {}, which cannot be read yet", type.name));
  return StoredMatrix{found.stored->bytes.data(), found.stored->dtype, rows, cols};
}

Result<StoredMatrix> Weights::matrix(const std::string& name, std::int64_t rows, std::int64_t cols) const {
  return find(name, {rows, cols});
}

Result<std::vector<float>> Weights::vector(const std::string& name, std::int64_t size) const {
  FETTLE_ASSIGN(const StoredMatrix stored, find(name, {size}));
  std::vector<float> values(static_cast<std::size_t>(size));
  read_rows(MutMatrix(values.data(), 1, size), stored, 0);
  return values;
}

Result<std::vector<float>> Weights::norm(const std::string& name, std::int64_t size) const {
  FETTLE_ASSIGN(auto values, vector(name, size));
  if (config().family->unit_offset && !from_gguf())  // GGUF files hold 1 + w
    for (float& value : values) value += 1.0f;
  return values;
}

Result<Linear> Weights::linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias,
                               std::int64_t heads) const {
  Linear linear;
  if (from_gguf() && gguf_reorders_rows(source_->architecture, name + ".weight")) linear.paired_heads = heads;
  FETTLE_ASSIGN(linear.weight, matrix(name + ".weight", out, in));
  linear.inputs = source_->inputs(name + ".weight");
  if (bias) {
    FETTLE_ASSIGN(linear.bias, vector(name + ".bias", out));
  }
  return linear;
}

Result<StoredMatrix> Weights::embedding() const {
  return matrix("model.embed_tokens.weight", config().vocab, config().hidden);
}

Result<StoredMatrix> Weights::head() const {
  if (config().tied) return embedding();
  auto head = matrix("lm_head.weight", config().vocab, config().hidden);
  if (!source_->find("lm_head.weight"))
    return Status(head.error().code(), head.error().message() +
                                           "; if the head is the embedding, config.json must say "
                                           "'tie_word_embeddings': true");
  return head;
}

Result<std::vector<float>> Weights::final_norm() const { return norm("model.norm.weight", config().hidden); }

void Weights::drop_block(std::int64_t layer) const {
  for (const char* linear : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
    source_->drop(fmt::format("model.layers.{}.{}.weight", layer, linear));
}

Result<BlockWeights> Weights::block(std::int64_t layer) const {
  const ModelConfig& c = config();
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const std::int64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  BlockWeights b;
  FETTLE_ASSIGN(b.q, linear(attention + "q_proj", width, c.hidden, c.qkv_bias, c.heads));
  FETTLE_ASSIGN(b.k, linear(attention + "k_proj", kv_width, c.hidden, c.qkv_bias, c.kv_heads));
  FETTLE_ASSIGN(b.v, linear(attention + "v_proj", kv_width, c.hidden, c.qkv_bias));
  FETTLE_ASSIGN(b.o, linear(attention + "o_proj", c.hidden, width, c.output_bias));
  FETTLE_ASSIGN(b.gate, linear(mlp + "gate_proj", c.intermediate, c.hidden, c.mlp_bias));
  FETTLE_ASSIGN(b.up, linear(mlp + "up_proj", c.intermediate, c.hidden, c.mlp_bias));
  FETTLE_ASSIGN(b.down, linear(mlp + "down_proj", c.hidden, c.intermediate, c.mlp_bias));
  FETTLE_ASSIGN(b.attention_norm, norm(prefix + "input_layernorm.weight", c.hidden));
  if (c.family->sandwich_norms) {
    FETTLE_ASSIGN(b.post_attention_norm, norm(prefix + "post_attention_layernorm.weight", c.hidden));
    FETTLE_ASSIGN(b.mlp_norm, norm(prefix + "pre_feedforward_layernorm.weight", c.hidden));
    FETTLE_ASSIGN(b.post_mlp_norm, norm(prefix + "post_feedforward_layernorm.weight", c.hidden));
  } else {
    FETTLE_ASSIGN(b.mlp_norm, norm(prefix + "post_attention_layernorm.weight", c.hidden));
  }
  if (c.family->qk_norm) {
    FETTLE_ASSIGN(b.q_norm, norm(attention + "q_norm.weight", c.head_dim));
    FETTLE_ASSIGN(b.k_norm, norm(attention + "k_norm.weight", c.head_dim));
  }
  return b;
}

}  // namespace fettle::kit
