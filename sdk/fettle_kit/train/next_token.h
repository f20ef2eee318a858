// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/mask.h"
#include "fettle_kit/model/network.h"
#include "fettle_kit/text/token_set.h"
#include "fettle_kit/train/training.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace fettle::kit {

/// The tensors of a network as train() wants them: all but those that a glob of `frozen` names; `masks` (may be null,
/// by tensor name) keep theirs sparse. Errors: a glob that names nothing, a mask for no tensor or of another shape.
Result<std::vector<TrainedTensor>> trained_tensors(Network& network, const std::vector<std::string>& frozen,
                                                   const std::map<std::string, Mask>* masks = nullptr);

/// A task that trains `network` on `data`, with the hooks that a network needs; `loss` and `evaluate` are left to set.
/// All must outlive it.
TrainingTask training_of(Network& network, std::span<const TrainedTensor> tensors, const TokenSet& data);

/// For each position of the sequences the id that comes next; -1 for the last of a sequence.
std::vector<std::int32_t> next_tokens(std::span<const std::int32_t> ids, std::int64_t length);

/// TrainingTask::loss: cross-entropy of the next token, in nats. The network must outlive it.
std::function<Result<double>(const MicroBatch&)> next_token_loss(Network& network);

/// Mean cross-entropy of the next token over all of `data`, in nats, `micro_batch` sequences at a time; changes no
/// gradient. Same as kit/eval's perplexity in f32, but for the order of the sum. Errors: cancelled once stop() is
/// true; sequences longer than the model's context.
Result<double> mean_next_token_loss(Network& network, const TokenSet& data, std::int64_t micro_batch,
                                    const std::function<bool()>& stop = {});

/// Refuses sequences shorter than 2 or longer than the context of the model; `what` names the port.
Status check_sequences(const TokenSet& data, const ModelConfig& model, const char* what);

}  // namespace fettle::kit
