// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/block_walk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace fettle::kit {
namespace {

/// Tokens inside a block at a time: enough that reading its weights is cheap beside multiplying with them.
constexpr std::int64_t portion_rows = 2048;

}  // namespace

BlockWalk::BlockWalk(const Decoder& model, const TokenSet& tokens, std::function<bool()> stop)
    : model_(&model),
      length_(tokens.length()),
      stop_(std::move(stop)),
      positions_(model.positions(0, tokens.length())),
      states_(tokens.sequences() * tokens.length(), model.config().hidden) {}

Result<BlockWalk> BlockWalk::start(const Decoder& model, const TokenSet& tokens, std::function<bool()> stop) {
  if (tokens.length() > model.config().context)
    return Status(
        Code::invalid_argument,
        fmt::format("calibration sequences have {} tokens, but the model's context is {}; cut them shorter with "
                    "'length' of data.tokens",
                    tokens.length(), model.config().context),
        "calibration");
  BlockWalk walk(model, tokens, std::move(stop));
  FETTLE_TRY(model.embed(walk.states_, tokens.ids()));
  return walk;
}

std::int64_t BlockWalk::portion_tokens(std::int64_t length) {
  return std::max<std::int64_t>(1, portion_rows / length) * length;
}

Status BlockWalk::run(const BlockWeights& weights, const BlockObserver& observer, bool keep_outputs,
                      const BoundaryObserver& boundary) {
  const std::int64_t at_once = portion_tokens(length_) / length_;
  const MutMatrix states = states_;
  const std::int64_t sequences = states.rows / length_;
  const bool copies = !keep_outputs || boundary;
  Rows copy(copies ? std::min(at_once, sequences) * length_ : 0, states.cols);
  for (std::int64_t first = 0; first < sequences; first += at_once) {
    if (stop_ && stop_()) return {Code::cancelled, "cancelled"};
    const Batch batch{std::min(at_once, sequences - first), length_};
    const MutMatrix x = states.rows_from(first * length_, batch.rows());
    const MutMatrix scratch = MutMatrix(copy).rows_from(0, copies ? batch.rows() : 0);
    if (copies) std::memcpy(scratch.data, x.data, static_cast<std::size_t>(x.rows * x.cols) * sizeof(float));
    model_->block(keep_outputs ? x : scratch, layer_, weights, batch, positions_, nullptr, observer);
    if (boundary) boundary(scratch, x);
  }
  return {};
}

Status BlockWalk::observe(const BlockObserver& observer) { return run(model_->block_weights(layer_), observer, false); }

Status BlockWalk::observe(const BlockWeights& weights, const BlockObserver& observer) {
  return run(weights, observer, false);
}

Status BlockWalk::advance(const BlockWeights* changed) {
  FETTLE_TRY(run(changed ? *changed : model_->block_weights(layer_), {}, true));
  model_->weights().drop_block(layer_++);
  return {};
}

Status BlockWalk::pass(const BlockObserver& observer, const BoundaryObserver& boundary) {
  FETTLE_TRY(run(model_->block_weights(layer_), observer, true, boundary));
  model_->weights().drop_block(layer_++);
  return {};
}

}  // namespace fettle::kit
