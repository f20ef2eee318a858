// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/parameter_values.h"

#include "fettle_kit/kernels/logarithm.h"
#include "fettle_kit/tensor/philox.h"

#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

namespace fettle::kit {
namespace {

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// Element `index` of a stream of normal numbers, by Marsaglia's polar method: arithmetic, square root and natural_log,
/// so that it is the same everywhere.
double normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
  for (std::uint32_t attempt = 0;; ++attempt) {
    const auto words =
        philox4x32({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32) | attempt << 16,
                    static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                   {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
    const auto uniform = [](std::uint32_t low, std::uint32_t high) {  // in [-1, 1)
      return static_cast<double>((low | std::uint64_t{high} << 32) >> 11) * 0x1p-52 - 1;
    };
    const double u = uniform(words[0], words[1]), v = uniform(words[2], words[3]), s = u * u + v * v;
    if (s > 0 && s < 1) return u * std::sqrt(-2 * natural_log(s) / s);
  }
}

/// Rows of heads that lie as adjacent rope pairs go back into halves (Linear::paired_heads).
void unpair_rows(MutMatrix values, std::int64_t heads) {
  const std::int64_t rows = values.rows * (values.rows == 1 ? values.cols : 1);  // a bias is one row of elements
  const std::int64_t cols = values.rows == 1 ? 1 : values.cols, dim = rows / heads, half = dim / 2;
  std::vector<float> head(static_cast<std::size_t>(dim * cols));
  for (std::int64_t h = 0; h < heads; ++h) {
    float* const at = values.data + h * dim * cols;
    std::copy_n(at, dim * cols, head.begin());
    for (std::int64_t i = 0; i < dim; ++i)
      std::copy_n(head.data() + (i % half * 2 + i / half) * cols, cols, at + i * cols);
  }
}

/// How many heads' rows of this tensor the file has as pairs; 0: none.
Result<std::int64_t> paired_heads(const ModelTensor& tensor, const Weights& weights) {
  if (!weights.from_gguf() || tensor.layer < 0) return std::int64_t{0};
  FETTLE_ASSIGN(const BlockWeights block, weights.block(tensor.layer));
  if (tensor.name.find(".q_proj.") != std::string::npos) return block.q.paired_heads;
  if (tensor.name.find(".k_proj.") != std::string::npos) return block.k.paired_heads;
  return std::int64_t{0};
}

}  // namespace

std::vector<ModelTensor> model_tensors(const ModelConfig& c) {
  std::vector<ModelTensor> tensors;
  const std::int64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  tensors.push_back({"model.embed_tokens.weight", TensorRole::embedding, {c.vocab, c.hidden}});
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const auto linear = [&](const char* name, std::int64_t out, std::int64_t in, bool bias) {
      tensors.push_back({prefix + name + ".weight", TensorRole::linear, {out, in}, layer});
      if (bias) tensors.push_back({prefix + name + ".bias", TensorRole::bias, {out}, layer});
    };
    const auto norm = [&](const char* name, std::int64_t size) {
      tensors.push_back({prefix + name + ".weight", TensorRole::norm, {size}, layer});
    };
    norm("input_layernorm", c.hidden);
    linear("self_attn.q_proj", width, c.hidden, c.qkv_bias);
    linear("self_attn.k_proj", kv_width, c.hidden, c.qkv_bias);
    linear("self_attn.v_proj", kv_width, c.hidden, c.qkv_bias);
    linear("self_attn.o_proj", c.hidden, width, c.output_bias);
    if (c.family->qk_norm) {
      norm("self_attn.q_norm", c.head_dim);
      norm("self_attn.k_norm", c.head_dim);
    }
    norm("post_attention_layernorm", c.hidden);
    if (c.family->sandwich_norms) {
      norm("pre_feedforward_layernorm", c.hidden);
      norm("post_feedforward_layernorm", c.hidden);
    }
    linear("mlp.gate_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear("mlp.up_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear("mlp.down_proj", c.hidden, c.intermediate, c.mlp_bias);
  }
  tensors.push_back({"model.norm.weight", TensorRole::norm, {c.hidden}});
  if (!c.tied) tensors.push_back({"lm_head.weight", TensorRole::head, {c.vocab, c.hidden}});
  return tensors;
}

Status read_values(MutMatrix values, const ModelTensor& tensor, const Weights& weights) {
  if (tensor.shape.size() == 1) {
    FETTLE_ASSIGN(auto vector, weights.vector(tensor.name, tensor.shape[0]));
    if (tensor.role == TensorRole::norm && weights.from_gguf() && weights.config().family->unit_offset)
      for (float& x : vector) x -= 1.0f;  // GGUF files hold 1 + w
    std::copy(vector.begin(), vector.end(), values.data);
  } else {
    FETTLE_ASSIGN(const StoredMatrix stored, weights.matrix(tensor.name, tensor.shape[0], tensor.shape[1]));
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, stored.rows, 64), [&](const auto& range) {
      read_rows(values.rows_from(range.begin(), range.end() - range.begin()), stored, range.begin());
    });
  }
  FETTLE_ASSIGN(const std::int64_t heads, paired_heads(tensor, weights));
  if (heads > 0) unpair_rows(values, heads);
  return {};
}

void initial_values(MutMatrix values, const ModelTensor& tensor, const ModelConfig& config, std::uint64_t seed,
                    double deviation) {
  if (tensor.role == TensorRole::bias || tensor.role == TensorRole::norm) {
    const float value = tensor.role == TensorRole::norm && !config.family->unit_offset ? 1.0f : 0.0f;
    std::fill_n(values.data, values.rows * values.cols, value);
    return;
  }
  const std::uint64_t stream = fnv1a(tensor.name);
  tbb::parallel_for(std::int64_t{0}, values.rows, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < values.cols; ++j)
      values(i, j) =
          static_cast<float>(deviation * normal(seed, stream, static_cast<std::uint64_t>(i * values.cols + j)));
  });
}

}  // namespace fettle::kit
