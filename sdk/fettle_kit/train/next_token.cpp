// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/next_token.h"

#include "fettle_kit/compress/targets.h"

#include <fmt/format.h>

#include <algorithm>

namespace fettle::kit {

Result<std::vector<TrainedTensor>> trained_tensors(Network& network, const std::vector<std::string>& frozen,
                                                   const std::map<std::string, Mask>* masks) {
  std::vector<bool> matched(frozen.size());
  std::vector<TrainedTensor> trained;
  Backend& backend = network.backend();
  std::size_t masked = 0;
  for (Parameter& p : network.parameters()) {
    bool is_frozen = false;
    for (std::size_t i = 0; i < frozen.size(); ++i)
      if (glob_match(frozen[i], p.name)) matched[i] = is_frozen = true;

    const auto mask = masks == nullptr ? std::map<std::string, Mask>::const_iterator() : masks->find(p.name);
    const bool has_mask = masks != nullptr && mask != masks->end();
    if (has_mask) {
      ++masked;
      if (mask->second.rows() != p.value.rows || mask->second.cols() != p.value.cols)
        return Status(Code::invalid_argument,
                      fmt::format("the mask of '{}' is {} x {}, the tensor {} x {}", p.name, mask->second.rows(),
                                  mask->second.cols(), p.value.rows, p.value.cols),
                      "mask");
    }
    if (is_frozen) continue;
    TrainedTensor t;
    t.name = p.name;
    t.value = p.value;
    t.gradient = p.gradient;
    if (p.used.storage != p.value.storage && p.transform == nullptr) t.used = p.used;
    t.decay = p.decay;
    if (has_mask) {
      t.mask = backend.allocate(p.value.rows, p.value.cols);
      backend.host_view(t.mask, Access::write, [&](MutMatrix ones) {
        for (std::int64_t i = 0; i < ones.rows; ++i)
          for (std::int64_t j = 0; j < ones.cols; ++j) ones(i, j) = mask->second.kept(i, j) ? 1.0F : 0.0F;
      });
    }
    trained.push_back(std::move(t));
  }
  for (std::size_t i = 0; i < frozen.size(); ++i)
    if (!matched[i])
      return Status(Code::invalid_argument, fmt::format("'{}' matches no tensor of the model", frozen[i]), "frozen");
  if (masks != nullptr && masked < masks->size())
    for (const auto& [name, mask] : *masks)
      if (network.find(name) == nullptr)
        return Status(Code::invalid_argument, fmt::format("the mask of '{}' is for no tensor of the model", name),
                      "mask");
  return trained;
}

TrainingTask training_of(Network& network, std::span<const TrainedTensor> tensors, const TokenSet& data) {
  TrainingTask task;
  task.backend = &network.backend();
  task.tensors = tensors;
  task.data = &data;
  task.begin_step = [&network] { network.zero_gradients(); };
  task.finish_gradients = [&network] { network.finish_gradients(); };
  const auto transformed = [](const Parameter& p) { return p.transform != nullptr; };
  if (std::ranges::any_of(network.parameters(), transformed))
    task.values_changed = [&network] { network.apply_transforms(); };
  return task;
}

std::vector<std::int32_t> next_tokens(std::span<const std::int32_t> ids, std::int64_t length) {
  std::vector<std::int32_t> next(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i)
    next[i] = static_cast<std::int64_t>(i + 1) % length == 0 ? -1 : ids[i + 1];
  return next;
}

std::function<Result<double>(const MicroBatch&)> next_token_loss(Network& network) {
  return [&network](const MicroBatch& batch) -> Result<double> {
    FETTLE_TRY(network.forward(batch.ids, {batch.sequences, batch.length}));
    const auto labels = next_tokens(batch.ids, batch.length);
    LossTarget target;
    target.labels = labels;
    target.label_scale = 1 / static_cast<double>(batch.denominator);
    const LossSums sums = network.head_loss(target);
    network.backward();
    return sums.cross_entropy / static_cast<double>(batch.denominator);
  };
}

Result<double> mean_next_token_loss(Network& network, const TokenSet& data, std::int64_t micro_batch,
                                    const std::function<bool()>& stop) {
  FETTLE_TRY(check_sequences(data, network.config(), "held_out"));
  LossSums sums;
  for (std::int64_t first = 0; first < data.sequences(); first += micro_batch) {
    if (stop && stop()) return cancelled_status();
    const std::int64_t count = std::min(micro_batch, data.sequences() - first);
    const auto ids = data.ids().subspan(static_cast<std::size_t>(first * data.length()),
                                        static_cast<std::size_t>(count * data.length()));
    FETTLE_TRY(network.forward(ids, {count, data.length()}));
    const auto labels = next_tokens(ids, data.length());
    LossTarget target;
    target.labels = labels;
    HeadLoss head;
    head.hidden = network.hidden();
    head.head = network.head();
    head.softcap = network.config().logit_softcap;
    head.precision = network.options().precision;
    sums += network.backend().head_loss(head, target);
  }
  return sums.cross_entropy / static_cast<double>(sums.labels);
}

Status check_sequences(const TokenSet& data, const ModelConfig& model, const char* what) {
  if (data.sequences() < 1) return {Code::invalid_argument, "there are no sequences", what};
  if (data.length() < 2)
    return {Code::invalid_argument, fmt::format("the sequences are {} ids long; at least 2 are needed", data.length()),
            what};
  if (data.length() > model.context)
    return {Code::invalid_argument,
            fmt::format("the sequences are {} ids long, but the model's context is {}; make them shorter with 'length' "
                        "of data.tokens",
                        data.length(), model.context),
            what};
  return {};
}

}  // namespace fettle::kit
