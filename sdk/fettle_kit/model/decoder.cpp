// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/decoder.h"

#include "fettle_kit/kernels/attention.h"
#include "fettle_kit/kernels/gemm_bf16.h"
#include "fettle_kit/nn/activation.h"
#include "fettle_kit/nn/rms_norm.h"
#include "fettle_kit/tensor/dtype.h"

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

namespace fettle::kit {
namespace {

/// Puts outputs that lie as adjacent rope pairs back into halves (Linear::paired_heads).
void unpair_heads(MutMatrix y, std::int64_t heads) {
  const std::int64_t dim = y.cols / heads, half = dim / 2;
  tbb::parallel_for(std::int64_t{0}, y.rows, [&](std::int64_t r) {
    std::vector<float> pairs(static_cast<std::size_t>(dim));
    for (float* head = y.row(r).data(); head != y.row(r).data() + y.cols; head += dim) {
      std::copy(head, head + dim, pairs.begin());
      for (std::int64_t i = 0; i < dim; ++i) head[i] = pairs[static_cast<std::size_t>(i % half * 2 + i / half)];
    }
  });
}

/// RMSNorm over each head on its own.
void norm_heads(MutMatrix x, std::span<const float> factor, float eps) {
  const auto dim = static_cast<std::int64_t>(factor.size());
  const MutMatrix heads(x.data, x.rows * (x.cols / dim), dim);
  rms_norm(heads, heads, factor, eps);
}

const RopeTable& rope_of(std::int64_t window, const Decoder::Positions& positions) {
  return window > 0 && positions.local.pairs > 0 ? positions.local : positions.full;
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, std::int64_t capacity) : capacity_(capacity) {
  for (std::int64_t i = 0; i < config.layers; ++i) {
    keys_.emplace_back(capacity, config.kv_heads * config.head_dim);
    values_.emplace_back(capacity, config.kv_heads * config.head_dim);
  }
}

Result<Decoder> Decoder::open(Weights weights, Precision precision) {
  Decoder decoder(std::move(weights), precision);
  const Weights& w = decoder.weights_;
  FETTLE_ASSIGN(decoder.embedding_, w.embedding());
  FETTLE_ASSIGN(decoder.head_, w.head());
  FETTLE_ASSIGN(decoder.final_norm_, w.final_norm());
  for (std::int64_t i = 0; i < w.config().layers; ++i) {
    FETTLE_ASSIGN(auto block, w.block(i));
    decoder.blocks_.push_back(std::move(block));
  }
  return decoder;
}

void Decoder::product(MutMatrix y, ConstMatrix x, const StoredMatrix& w) const {
  precision_ == Precision::bf16 ? matmul_bf16_nt(y, x, w) : matmul_nt(y, x, w);
}

void Decoder::apply(const Linear& linear, MutMatrix y, ConstMatrix x) const {
  if (linear.inputs.kind == InputGrid::Kind::none) {
    product(y, x, linear.weight);
  } else {
    Rows rounded(x.rows, x.cols);
    round_inputs(rounded, x, linear.inputs);
    product(y, rounded, linear.weight);
  }
  if (!linear.bias.empty()) add_bias(y, linear.bias);
  if (linear.paired_heads > 0) unpair_heads(y, linear.paired_heads);
}

Decoder::Positions Decoder::positions(std::int64_t first, std::int64_t count) const {
  const Rope &full = config().rope, &local = config().local_rope;
  return {first, rope_table(full.frequencies, full.magnitude, first, count),
          rope_table(local.frequencies, local.magnitude, first, count)};
}

Status Decoder::embed(MutMatrix x, std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids)
    if (id < 0 || id >= config().vocab)
      return {Code::invalid_argument,
              fmt::format("token id {} is outside the model's vocabulary of {}; were the tokens "
                          "made with another tokenizer?",
                          id, config().vocab)};
  tbb::parallel_for(std::int64_t{0}, x.rows, [&](std::int64_t i) {
    read_rows(x.rows_from(i, 1), embedding_, ids[static_cast<std::size_t>(i)]);
    if (config().embedding_scale != 1)
      for (float& value : x.row(i)) value *= config().embedding_scale;
  });
  return {};
}

void Decoder::block(MutMatrix x, std::int64_t layer, const Batch& batch, const Positions& positions,
                    KvCache* cache) const {
  block(x, layer, blocks_[static_cast<std::size_t>(layer)], batch, positions, cache);
}

void Decoder::block(MutMatrix x, std::int64_t layer, const BlockWeights& weights, const Batch& batch,
                    const Positions& positions, KvCache* cache, const BlockObserver& observer) const {
  attend(x, layer, weights, batch, positions, cache, observer);
  mlp(x, weights, observer);
}

void Decoder::attend(MutMatrix x, std::int64_t layer, const BlockWeights& w, const Batch& batch,
                     const Positions& positions, KvCache* cache, const BlockObserver& observer) const {
  const ModelConfig& c = config();
  const std::int64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  Rows h(x.rows, c.hidden), q(x.rows, width), k(x.rows, kv_width), v(x.rows, kv_width);

  rms_norm(h, x, w.attention_norm, c.norm_eps);
  if (observer) observer(Site::attention_in, h);
  apply(w.q, q, h);
  if (!w.q_norm.empty()) norm_heads(q, w.q_norm, c.norm_eps);
  const std::int64_t window = c.windows[static_cast<std::size_t>(layer)];
  rotate_heads(q, rope_of(window, positions), batch.length);
  keys_and_values(k, v, h, layer, w, batch, positions);

  const CausalHeads heads{c.heads, c.kv_heads, c.head_dim, c.attention_scale, c.attention_softcap, window};
  Rows mixed(x.rows, width);
  if (cache) {
    const MutMatrix keys = cache->keys_[static_cast<std::size_t>(layer)],
                    values = cache->values_[static_cast<std::size_t>(layer)];
    const auto bytes = static_cast<std::size_t>(x.rows * kv_width) * sizeof(float);
    std::memcpy(keys.row(positions.first).data(), MutMatrix(k).data, bytes);
    std::memcpy(values.row(positions.first).data(), MutMatrix(v).data, bytes);
    const std::int64_t seen = positions.first + x.rows;
    causal_attention(mixed, q, keys.rows_from(0, seen), values.rows_from(0, seen), heads);
  } else {
    const MutMatrix all_mixed = mixed, all_q = q, all_k = k, all_v = v;
    for (std::int64_t s = 0; s < batch.sequences; ++s) {
      const auto of = [&](const MutMatrix& all) { return all.rows_from(s * batch.length, batch.length); };
      causal_attention(of(all_mixed), of(all_q), of(all_k), of(all_v), heads);
    }
  }
  if (observer) observer(Site::attention_out, mixed);
  apply(w.o, h, mixed);
  if (!w.post_attention_norm.empty()) rms_norm(h, h, w.post_attention_norm, c.norm_eps);
  add(x, h);
}

void Decoder::keys_and_values(MutMatrix keys, MutMatrix values, ConstMatrix x, std::int64_t layer,
                              const BlockWeights& w, const Batch& batch, const Positions& positions) const {
  apply(w.k, keys, x);
  apply(w.v, values, x);
  if (!w.k_norm.empty()) norm_heads(keys, w.k_norm, config().norm_eps);
  rotate_heads(keys, rope_of(config().windows[static_cast<std::size_t>(layer)], positions), batch.length);
}

void Decoder::mlp(MutMatrix x, const BlockWeights& w, const BlockObserver& observer) const {
  const ModelConfig& c = config();
  Rows h(x.rows, c.hidden), gate(x.rows, c.intermediate), up(x.rows, c.intermediate);
  rms_norm(h, x, w.mlp_norm, c.norm_eps);
  if (observer) observer(Site::mlp_in, h);
  apply(w.gate, gate, h);
  apply(w.up, up, h);
  gated_activation(gate, up, c.activation);
  if (observer) observer(Site::mlp_hidden, gate);
  apply(w.down, h, gate);
  if (!w.post_mlp_norm.empty()) rms_norm(h, h, w.post_mlp_norm, c.norm_eps);
  add(x, h);
}

void Decoder::final_norm(MutMatrix x) const { rms_norm(x, x, final_norm_, config().norm_eps); }

void Decoder::logits(MutMatrix logits, ConstMatrix x) const {
  product(logits, x, head_);
  if (config().logit_softcap > 0) softcap(logits, config().logit_softcap);
}

Status Decoder::forward(MutMatrix x, std::span<const std::int32_t> ids, const Batch& batch, KvCache* cache,
                        const std::function<bool()>& stop) const {
  const std::int64_t first = cache ? cache->length_ : 0;
  if (cache && (batch.sequences != 1 || first + batch.length > cache->capacity_))
    return {Code::internal, fmt::format("a cache of {} positions cannot take {} sequences of {} after {}",
                                        cache->capacity_, batch.sequences, batch.length, first)};
  FETTLE_TRY(embed(x, ids));
  const Positions at = positions(first, batch.length);
  for (std::int64_t layer = 0; layer < config().layers; ++layer) {
    if (stop && stop()) return {Code::cancelled, "cancelled"};
    block(x, layer, batch, at, cache);
  }
  if (cache) cache->length_ += batch.length;
  final_norm(x);
  return {};
}

std::int64_t Decoder::logit_rows() const {
  return std::max<std::int64_t>(16, (std::int64_t{16} << 20) / config().vocab);
}

double Decoder::forward_bytes(double rows, double hidden, double intermediate, double attention_width,
                              double kv_width) {
  const double attend = hidden + 2 * attention_width + 2 * kv_width, mlp = hidden + 2 * intermediate;
  return rows * sizeof(float) * (hidden + std::max(attend, mlp));
}

}  // namespace fettle::kit
