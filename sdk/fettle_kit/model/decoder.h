// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/kernels/precision.h"
#include "fettle_kit/model/weights.h"
#include "fettle_kit/nn/rope.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace fettle::kit {

/// f32 rows that own their memory.
class Rows {
 public:
  Rows() = default;
  Rows(std::int64_t rows, std::int64_t cols) : rows_(rows), cols_(cols), data_(static_cast<std::size_t>(rows * cols)) {}
  operator MutMatrix() { return {data_.data(), rows_, cols_}; }          // NOLINT(google-explicit-constructor): a view
  operator ConstMatrix() const { return {data_.data(), rows_, cols_}; }  // NOLINT(google-explicit-constructor): a view
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }

 private:
  std::int64_t rows_ = 0, cols_ = 0;
  std::vector<float> data_;
};

/// Keys and values of the positions a sequence has passed, for every block. One sequence.
class KvCache {
 public:
  KvCache(const ModelConfig& config, std::int64_t capacity);
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }

 private:
  friend class Decoder;
  std::int64_t length_ = 0, capacity_ = 0;
  std::vector<Rows> keys_, values_;  // a block each: [capacity, kv_heads * head_dim]
};

/// `sequences` runs of `length` tokens each, one after the other: rows of activations are [sequences * length, hidden].
struct Batch {
  std::int64_t sequences = 1, length = 0;
  std::int64_t rows() const { return sequences * length; }
};

/// The four distinct inputs of a block's linears. Linears that share an input share what is measured on it.
enum class Site {
  attention_in,   ///< of q, k and v
  attention_out,  ///< of o
  mlp_in,         ///< of gate and up
  mlp_hidden,     ///< of down
};

/// Sees the input of a site, [rows of the batch, width of the site], before its linears run.
using BlockObserver = std::function<void(Site, ConstMatrix)>;

/// The forward pass of a decoder in f32, or with products of bf16 factors. A row of any result depends on its own
/// sequence's earlier tokens alone, never on the batch around it, the number of threads, or whether the earlier tokens
/// came through a cache: same bits. Runs on the TBB arena of the caller. Immutable. [any thread]
class Decoder {
 public:
  /// `precision` of the products with weights; attention, norms and sums are f32.
  static Result<Decoder> open(Weights weights, Precision precision = Precision::real);

  const ModelConfig& config() const { return weights_.config(); }
  const Weights& weights() const { return weights_; }
  const BlockWeights& block_weights(std::int64_t layer) const { return blocks_[static_cast<std::size_t>(layer)]; }

  /// What the blocks below share, made once for a run of positions.
  struct Positions {
    std::int64_t first = 0;
    RopeTable full, local;
  };
  Positions positions(std::int64_t first, std::int64_t count) const;

  /// x [n, hidden] from n ids; an id outside the vocabulary is an error.
  Status embed(MutMatrix x, std::span<const std::int32_t> ids) const;
  /// x [batch.rows(), hidden] goes through one block, in place. With a cache (then one sequence), the positions before
  /// those of the batch are taken from it and these are added.
  void block(MutMatrix x, std::int64_t layer, const Batch& batch, const Positions& positions,
             KvCache* cache = nullptr) const;
  /// As above with other weights than the file's (while a technique changes them); `observer`, if any, sees the inputs
  /// of the linears in the order of Site.
  void block(MutMatrix x, std::int64_t layer, const BlockWeights& weights, const Batch& batch,
             const Positions& positions, KvCache* cache = nullptr, const BlockObserver& observer = {}) const;
  /// The halves of a block, one after the other: x += attention(norm(x)), x += mlp(norm(x)), with their post norms
  /// where the family has them.
  void attend(MutMatrix x, std::int64_t layer, const BlockWeights& weights, const Batch& batch,
              const Positions& positions, KvCache* cache = nullptr, const BlockObserver& observer = {}) const;
  void mlp(MutMatrix x, const BlockWeights& weights, const BlockObserver& observer = {}) const;
  /// What a cache holds of rows that the linears of attention read (Site::attention_in): keys after their norm and
  /// rope, and values, both [batch.rows(), kv_heads * head_dim].
  void keys_and_values(MutMatrix keys, MutMatrix values, ConstMatrix x, std::int64_t layer, const BlockWeights& weights,
                       const Batch& batch, const Positions& positions) const;
  /// x in place by the final norm.
  void final_norm(MutMatrix x) const;
  /// logits [n, vocab] from rows that went through final_norm.
  void logits(MutMatrix logits, ConstMatrix x) const;

  /// embed, all blocks, final_norm. `ids` are the batch's, sequence after sequence. `stop` is polled between blocks:
  /// true ends with Code::cancelled.
  Status forward(MutMatrix x, std::span<const std::int32_t> ids, const Batch& batch, KvCache* cache = nullptr,
                 const std::function<bool()>& stop = {}) const;

  /// Rows of logits to hold at a time: about 64 MiB, at least 16.
  std::int64_t logit_rows() const;
  /// Private bytes of forward() on a batch of so many rows, in total with its x.
  static double forward_bytes(double rows, double hidden, double intermediate, double attention_width, double kv_width);

 private:
  Decoder(Weights weights, Precision precision) : weights_(std::move(weights)), precision_(precision) {}
  void product(MutMatrix y, ConstMatrix x, const StoredMatrix& w) const;
  void apply(const Linear& linear, MutMatrix y, ConstMatrix x) const;
  Weights weights_;
  Precision precision_;
  StoredMatrix embedding_, head_;
  std::vector<float> final_norm_;
  std::vector<BlockWeights> blocks_;
};

}  // namespace fettle::kit
