// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/pruning.h"

#include "fettle_kit/compress/targets.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cmath>
#include <cstring>

namespace fettle::kit {

Status check_prune_params(const PruneParams& p) {
  if (p.share.has_value() == p.pattern.has_value())
    return {Code::invalid_argument, "give one of 'share' and 'pattern', for example share: 0.5 or pattern: \"2:4\"",
            p.share ? "pattern" : "share"};
  if (p.pattern && !p.shares.empty())
    return {Code::invalid_argument, "'shares' goes with 'share'; 'pattern' fixes the share of every matrix", "shares"};
  if (p.pattern) FETTLE_TRY(parse_n_of_m(*p.pattern));
  return {};
}

std::string sparsity_text(const PruneParams& p) {
  return p.pattern ? *p.pattern : fmt::format("{}", p.share.value_or(0));
}

Status check_not_quantized(const Checkpoint& model) {
  if (!model.config().contains("quantization_config")) return {};
  return {Code::unsupported,
          "the weights are quantized already, and packed codes cannot be pruned; prune the original checkpoint, then "
          "quantize the result",
          "model"};
}

Result<std::vector<PruneTarget>> choose_matrices(const Checkpoint& model, const PruneParams& p) {
  FETTLE_TRY(check_not_quantized(model));
  SparsityTarget sparsity;
  sparsity.group = p.group == "row" ? Group::row : Group::matrix;
  if (p.pattern) {
    FETTLE_ASSIGN(sparsity.pattern, parse_n_of_m(*p.pattern));
  }
  std::vector<std::string> share_globs;
  for (const auto& [glob, share] : p.shares) share_globs.push_back(glob);

  std::vector<PruneTarget> chosen;
  for (const TensorView* t : model.tensors()) {
    if (first_match(p.targets, t->name) < 0 || first_match(p.ignore, t->name) >= 0) continue;
    if (t->shape.size() != 2 || !is_float(t->dtype))
      return Status(
          Code::invalid_argument,
          fmt::format("tensor '{}' is {} with {} dimensions; only matrices of plain floats can be pruned: narrow "
                      "'targets' or put it into 'ignore'",
                      t->name, info(t->dtype).name, t->shape.size()),
          "targets");
    if (sparsity.pattern && t->cols() % sparsity.pattern->m != 0)
      return Status(
          Code::invalid_argument,
          fmt::format("tensor '{}' has rows of {} weights, which groups of {} do not divide; put it into 'ignore' "
                      "or choose another pattern",
                      t->name, t->cols(), sparsity.pattern->m),
          "pattern");
    const int special = first_match(share_globs, t->name);
    sparsity.share = special >= 0 ? p.shares[static_cast<std::size_t>(special)].second : p.share.value_or(0);
    chosen.push_back({t, sparsity});
  }
  if (chosen.empty())
    return Status(Code::invalid_argument,
                  fmt::format("no tensor of the model matches 'targets'; its names look like '{}'",
                              model.tensors().empty() ? "" : model.tensors().back()->name),
                  "targets");
  return chosen;
}

Result<std::vector<PruneTarget>> masked_matrices(const Checkpoint& model, const std::map<std::string, Mask>& masks) {
  FETTLE_TRY(check_not_quantized(model));
  std::vector<PruneTarget> targets;
  for (const TensorView* t : model.tensors()) {
    const auto mask = masks.find(t->name);
    if (mask == masks.end()) continue;
    if (t->shape.size() != 2 || t->rows() != mask->second.rows() || t->cols() != mask->second.cols())
      return Status(Code::invalid_argument,
                    fmt::format("the mask of '{}' is [{}, {}], but the model's tensor is [{}]; the mask was made for "
                                "another model",
                                t->name, mask->second.rows(), mask->second.cols(), fmt::join(t->shape, ", ")),
                    "mask");
    if (!is_float(t->dtype))
      return Status(Code::invalid_argument,
                    fmt::format("tensor '{}' is {}; only plain floats can be masked", t->name, info(t->dtype).name),
                    "model");
    targets.push_back({t, {}});
  }
  for (const auto& [name, mask] : masks)
    if (!model.find(name))
      return Status(
          Code::invalid_argument,
          fmt::format("the mask has '{}', which the model does not have; the mask was made for another model", name),
          "mask");
  return targets;
}

std::string sparsity_text(const std::map<std::string, Mask>& masks) {
  double pruned = 0, all = 0;
  for (const auto& [name, mask] : masks) {
    pruned += static_cast<double>(mask.count_pruned());
    all += static_cast<double>(mask.rows() * mask.cols());
  }
  return fmt::format("{:.4g}", all > 0 ? pruned / all : 0);
}

void PruneCounts::report(const Context& context) const {
  const auto share = [&](std::int64_t of) {
    return of > 0 ? static_cast<double>(pruned) / static_cast<double>(of) : 0;
  };
  context.metric("sparsity", share(targeted));
  context.metric("sparsity_of_model", share(all));
  context.metric("pruned", static_cast<double>(pruned), "weights");
  context.metric("parameters_before", static_cast<double>(all));
  context.metric("parameters", static_cast<double>(all - pruned));
  context.metric("bytes_before", static_cast<double>(bytes), "B");
  context.metric("bytes", static_cast<double>(bytes), "B");
}

bool prunes_nothing(const SparsityTarget& target) {
  return target.pattern ? target.pattern->n == target.pattern->m : target.share == 0;
}

Mask mask_of(ConstMatrix scores, const SparsityTarget& target) {
  return target.pattern ? prune_n_of_m(scores, *target.pattern) : prune_share(scores, target.share, target.group);
}

bool all_numbers(ConstMatrix weights) {
  for (std::int64_t i = 0; i < weights.rows; ++i)
    for (const float w : weights.row(i))
      if (std::isnan(w)) return false;
  return true;
}

void zero_pruned(const Mask& mask, std::span<std::byte> rows, std::size_t element) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, mask.rows(), 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (std::int64_t j = 0; j < mask.cols(); ++j)
        if (!mask.kept(i, j))
          std::memset(rows.data() + static_cast<std::size_t>(i * mask.cols() + j) * element, 0, element);
  });
}

}  // namespace fettle::kit
