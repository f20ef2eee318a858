// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/foldable_block.h"

#include "fettle_kit/compress/folding.h"

#include <fmt/format.h>

#include <utility>

namespace fettle::kit {
namespace {

void multiply(std::vector<float>& product, const std::vector<float>& by) {
  if (product.empty()) product.assign(by.size(), 1.0F);
  for (std::size_t i = 0; i < by.size(); ++i) product[i] *= by[i];
}

}  // namespace

FoldableBlock::FoldableBlock(const Decoder& model, std::int64_t layer)
    : config_(&model.config()), original_(model.block_weights(layer)) {
  for (std::size_t i = 0; i < block_linears.size(); ++i) {
    const Linear& linear = original_.*block_linears[i].member;
    const StoredMatrix& w = linear.weight;
    matrices_[i].resize(static_cast<std::size_t>(w.rows * w.cols));
    read_rows(MutMatrix(matrices_[i].data(), w.rows, w.cols), w, 0);
    biases_[i] = linear.bias;
  }
  attention_norm_ = original_.attention_norm;
  mlp_norm_ = original_.mlp_norm;
  for (const BlockLinear& linear : block_linears)
    columns_[index_of(linear.site)].assign(static_cast<std::size_t>(width_of(linear.site, *config_)), 1.0F);
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
    linear.weight = {std::as_bytes(std::span(matrices_[i])).data(), DType::f32, linear.weight.rows, linear.weight.cols};
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
      multiply(rows_[v_linear], scales);
      break;
    case Site::mlp_hidden:
      divide_rows(matrix(up_linear), biases_[up_linear], scales);
      multiply(rows_[up_linear], scales);
      break;
  }
  const std::vector<float> columns =
      site == Site::attention_out ? repeat_for_heads(scales, config_->heads, config_->kv_heads) : scales;
  for (std::size_t i = 0; i < block_linears.size(); ++i)
    if (block_linears[i].site == site) scale_columns(matrix(i), columns);
  multiply(columns_[index_of(site)], columns);
  return scales;
}

std::vector<float> FoldableBlock::fitting(Site site, std::vector<float> scales, DType norm_type) const {
  if (site != Site::attention_in && site != Site::mlp_in) return scales;
  std::vector<float> factors = norm(site);
  fold_into_norm(factors, scales, norm_type, config_->family->unit_offset);
  return scales;
}

void FoldableBlock::unfold(std::size_t linear, MutMatrix values) const {
  const std::vector<float>&columns = column_scales(block_linears[linear].site), &rows = rows_[linear];
  for (std::int64_t i = 0; i < values.rows; ++i) {
    const float by = rows.empty() ? 1.0F : rows[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < values.cols; ++j)
      values(i, j) = values(i, j) / columns[static_cast<std::size_t>(j)] * by;
  }
}

std::string norm_name(const ModelConfig& config, Site site, std::int64_t layer) {
  if (site == Site::attention_in) return fmt::format("model.layers.{}.input_layernorm.weight", layer);
  return fmt::format("model.layers.{}.{}.weight", layer,
                     config.family->sandwich_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm");
}

}  // namespace fettle::kit
