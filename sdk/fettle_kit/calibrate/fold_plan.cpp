// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/fold_plan.h"

#include <algorithm>
#include <set>

namespace fettle::kit {
namespace {

constexpr std::array<Site, site_count> sites = {Site::attention_in, Site::attention_out, Site::mlp_in,
                                                Site::mlp_hidden};

bool after_norm(Site site) { return site == Site::attention_in || site == Site::mlp_in; }

/// The linear whose rows a fold divides.
std::size_t feeding_linear(Site site) { return site == Site::attention_out ? v_linear : up_linear; }

}  // namespace

FoldPlan::FoldPlan(const ModelConfig& config, const Checkpoint& checkpoint,
                   const std::vector<const TensorView*>& targets, std::optional<DType> dense_type)
    : config_(&config),
      checkpoint_(&checkpoint),
      dense_type_(dense_type),
      folds_(static_cast<std::size_t>(config.layers)) {
  std::set<std::string> quantized;
  for (const TensorView* t : targets) quantized.insert(t->name);
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    for (const Site site : sites) {
      bool all = after_norm(site) || quantized.contains(block_linears[feeding_linear(site)].tensor_name(layer));
      for (const BlockLinear& linear : block_linears)
        all = all && (linear.site != site || quantized.contains(linear.tensor_name(layer)));
      folds_[static_cast<std::size_t>(layer)][index_of(site)] = all;
    }
}

const TensorView* FoldPlan::feeder(std::int64_t layer, Site site) const {
  if (after_norm(site)) return checkpoint_->find(norm_name(*config_, site, layer));
  std::string name = block_linears[feeding_linear(site)].tensor_name(layer);
  name.replace(name.rfind('.') + 1, std::string::npos, "bias");
  return checkpoint_->find(name);
}

DType FoldPlan::norm_type(std::int64_t layer, Site site) const {
  const TensorView* const norm = after_norm(site) ? feeder(layer, site) : nullptr;
  return dense_type_.value_or(norm != nullptr ? norm->dtype : DType::f32);
}

std::vector<const TensorView*> FoldPlan::changed() const {
  std::vector<const TensorView*> tensors;
  for (std::int64_t layer = 0; layer < config_->layers; ++layer)
    for (const Site site : sites)
      if (const TensorView* t = feeder(layer, site); t != nullptr && folds(layer, site)) tensors.push_back(t);
  return tensors;
}

Status FoldPlan::store(const FoldableBlock& block, std::int64_t layer,
                       const std::function<Status(const TensorView&, std::span<const float>)>& put) const {
  const float offset = config_->family->unit_offset ? 1.0F : 0.0F;
  for (const Site site : sites) {
    const TensorView* const t = feeder(layer, site);
    if (t == nullptr || !folds(layer, site)) continue;
    std::vector<float> values(static_cast<std::size_t>(t->elements()));
    info(t->dtype).to_f32(t->bytes.data(), values.data(), values.size());
    if (after_norm(site)) {
      const std::vector<float>& factors = block.norm(site);
      for (std::size_t j = 0; j < values.size(); ++j)  // what no fold changed keeps its bits
        if (values[j] + offset != factors[j]) values[j] = factors[j] - offset;
    } else {
      const std::span<const float> bias = block.bias(feeding_linear(site));
      std::copy(bias.begin(), bias.end(), values.begin());
    }
    FETTLE_TRY(put(*t, values));
  }
  return {};
}

}  // namespace fettle::kit
