// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/model/decoder.h"
#include "fettle_kit/text/token_set.h"

#include <cstdint>
#include <functional>
#include <span>

namespace fettle::kit {

/// Carries calibration tokens through a model one block at a time, so that a technique can look at the inputs of a
/// block's linears, change the block, and let the next block see what the changed one puts out. In memory: the
/// activations at one block boundary (tokens * hidden floats) and one batch inside a block; never the model: when a
/// block is left, the pages of its matrices are released.
///
///   FETTLE_ASSIGN(BlockWalk walk, BlockWalk::start(model, tokens, stop));
///   for (; !walk.done(); ) {
///     FETTLE_TRY(walk.observe([&](Site site, ConstMatrix x) { norms[site].add(x); }));
///     ... compress model.block_weights(walk.layer()) ...
///     FETTLE_TRY(walk.advance(&compressed));
///   }
///
/// Results do not depend on the number of threads. Runs on the TBB arena of the caller; one thread at a time.
class BlockWalk {
 public:
  /// Embeds all sequences. `model` and `tokens` must outlive the walk. `stop` is polled between batches: true ends with
  /// Code::cancelled. Errors: sequences longer than the model's context, ids outside its vocabulary.
  static Result<BlockWalk> start(const Decoder& model, const TokenSet& tokens, std::function<bool()> stop = {});

  /// Tokens inside a block at a time, whole sequences of so many: fewer if there are fewer.
  static std::int64_t portion_tokens(std::int64_t length);

  bool done() const { return layer_ == model_->config().layers; }
  std::int64_t layer() const { return layer_; }
  std::int64_t tokens() const { return ConstMatrix(states_).rows; }
  /// Tokens of a sequence, and the positions they stand at.
  std::int64_t length() const { return length_; }
  const Decoder::Positions& positions() const { return positions_; }
  /// What the block is given: [tokens(), hidden], sequence after sequence. Valid until advance().
  ConstMatrix states() const { return states_; }

  /// Runs the block as the model has it and shows the inputs of its linears, some sequences at a time, always in the
  /// same portions and order. x [tokens of the portion, width of the site]. Leaves the boundary where it is.
  Status observe(const BlockObserver& observer);
  /// The same with other weights than the model's.
  Status observe(const BlockWeights& weights, const BlockObserver& observer);

  /// Goes on to the next block with the outputs of this one: run with `changed` weights (what the compressed model will
  /// see), or as the model has it if null.
  Status advance(const BlockWeights* changed);

  /// Sees what goes into a block and what comes out of it, both [tokens of the portion, hidden].
  using BoundaryObserver = std::function<void(ConstMatrix before, ConstMatrix after)>;

  /// observe() and advance() with the block as the model has it, in one forward pass: the way of a technique that only
  /// looks. Either observer may be empty. Portions are whole sequences.
  Status pass(const BlockObserver& observer, const BoundaryObserver& boundary);

 private:
  BlockWalk(const Decoder& model, const TokenSet& tokens, std::function<bool()> stop);
  /// Runs every portion through the block; without `keep_outputs` the boundary stays as it is.
  Status run(const BlockWeights& weights, const BlockObserver& observer, bool keep_outputs,
             const BoundaryObserver& boundary = {});

  const Decoder* model_;
  std::int64_t length_;
  std::function<bool()> stop_;
  Decoder::Positions positions_;
  Rows states_;
  std::int64_t layer_ = 0;
};

}  // namespace fettle::kit
