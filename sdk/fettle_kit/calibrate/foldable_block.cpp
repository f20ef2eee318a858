// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/foldable_block.h"

#include "fettle_kit/compress/folding.h"

#include <fmt/format.h>

#include <utility>

namespace fettle::kit {
namespace {

constexpr std::size_t v_linear = 2, up_linear = 5;

}  // namespace

FoldableBlock::FoldableBlock(const Decoder& model, std::int64_t layer)
    : config_(&model.config()), original_(model.block_weights(layer)) {
  for (std::size_t i = 0; i < block_linears.size(); ++i) {
    const Linear& linear = original_.*block_linears[i].member;
    const StoredMatrix& w = linear.weight;
    matrices_[i].resize(static_cast<std::size_t>(w.rows * w.cols));
    info(w.dtype).to_f32(w.data, matrices_[i].data(), matrices_[i].size());
    biases_[i] = linear.bias;
  }
  attention_norm_ = original_.attention_norm;
  mlp_norm_ = original_.mlp_norm;
}

MutMatrix FoldableBlock::matrix(std::size_t linear) {
  const StoredMatrix& w = (original_.*block_linears[linear].member).weight;
  return {matrices_[linear].data(), w.rows, w.cols};
}

ConstMatrix FoldableBlock::matrix(std::size_t linear) const {
  const StoredMatrix& w = (original_.*block_linears[linear].member).weight;
  return {matrices_[linear].data(), w.rows, w.cols};
}

BlockWeights FoldableBlock::weights() const {
  BlockWeights weights = original_;
  for (std::size_t i = 0; i < block_linears.size(); ++i) {
    Linear& linear = weights.*block_linears[i].member;
    linear.weight.data = reinterpret_cast<const std::byte*>(matrices_[i].data());
    linear.weight.dtype = DType::f32;
    linear.bias = biases_[i];
  }
  weights.attention_norm = attention_norm_;
  weights.mlp_norm = mlp_norm_;
  return weights;
}

std::int64_t FoldableBlock::fold_width(Site site) const {
  return site == Site::attention_out ? config_->kv_heads * config_->head_dim : width_of(site, *config_);
}

std::vector<float> FoldableBlock::fold(Site site, std::vector<float> scales, DType norm_type) {
  switch (site) {
    case Site::attention_in:
    case Site::mlp_in:
      fold_into_norm(site == Site::attention_in ? attention_norm_ : mlp_norm_, scales, norm_type,
                     config_->family->unit_offset);
      break;
    case Site::attention_out:
      divide_rows(matrix(v_linear), biases_[v_linear], scales);
      break;
    case Site::mlp_hidden:
      divide_rows(matrix(up_linear), biases_[up_linear], scales);
      break;
  }
  const std::vector<float> columns =
      site == Site::attention_out ? repeat_for_heads(scales, config_->heads, config_->kv_heads) : scales;
  for (std::size_t i = 0; i < block_linears.size(); ++i)
    if (block_linears[i].site == site) scale_columns(matrix(i), columns);
  return scales;
}

std::string norm_name(const ModelConfig& config, Site site, std::int64_t layer) {
  if (site == Site::attention_in) return fmt::format("model.layers.{}.input_layernorm.weight", layer);
  return fmt::format("model.layers.{}.{}.weight", layer,
                     config.family->sandwich_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm");
}

}  // namespace fettle::kit
