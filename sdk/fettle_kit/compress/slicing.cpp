// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/slicing.h"

#include "fettle_kit/tensor/dtype.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace fettle::kit {
namespace {

using Indices = std::vector<std::int64_t>;

Indices first_indices(std::int64_t count) {
  Indices indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), std::int64_t{0});
  return indices;
}

bool ascending(const Indices& kept) {
  return std::adjacent_find(kept.begin(), kept.end(), std::greater_equal<>()) == kept.end();
}

bool distinct_below(Indices kept, std::int64_t end) {
  std::sort(kept.begin(), kept.end());
  return !kept.empty() && kept.front() >= 0 && kept.back() < end && ascending(kept);
}

/// Each index as the `unit` of consecutive ones it stands for; empty if all of `total` stay where they are.
Indices spread(const Indices& kept, std::int64_t unit, std::int64_t total) {
  Indices spread;
  if (static_cast<std::int64_t>(kept.size()) * unit == total && ascending(kept)) return spread;
  for (const std::int64_t i : kept)
    for (std::int64_t j = 0; j < unit; ++j) spread.push_back(i * unit + j);
  return spread;
}

/// An axis of a tensor: what is kept of how much.
struct Axis {
  const Indices* kept = nullptr;  ///< null: all
  std::int64_t unit = 1, size = 0;
};

/// What is known of a tensor by its name.
struct Role {
  std::vector<Axis> axes;
  double factor = 1, offset = 0;
};

/// The block of "model.layers.N.rest", and the rest; -1 for other names.
std::pair<std::int64_t, std::string_view> split_layer(std::string_view name) {
  constexpr std::string_view prefix = "model.layers.";
  std::int64_t layer = -1;
  if (!name.starts_with(prefix)) return {-1, name};
  const char* const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + prefix.size(), end, layer);
  if (error != std::errc() || layer < 0 || rest == end || *rest != '.') return {-1, name};
  return {layer, std::string_view(rest + 1, static_cast<std::size_t>(end - rest - 1))};
}

class Roles {
 public:
  Roles(const DecoderShape& shape, const KeptParts& kept, const SliceScaling& scaling)
      : shape_(shape), kept_(kept), scaling_(scaling) {}

  /// Nothing if no family has such a tensor. `rank`: its number of axes.
  std::optional<Role> outside_blocks(std::string_view name) const {
    const Axis vocab{}, hidden{&kept_.hidden, 1, shape_.hidden};
    if (name == "model.embed_tokens.weight") return Role{{vocab, hidden}, scaling_.embedding, 0};
    if (name == "lm_head.weight") return Role{{vocab, hidden}};
    if (name == "model.norm.weight") return Role{{hidden}, scaling_.final_norm, scaling_.unit_offset ? 1.0 : 0.0};
    return std::nullopt;
  }

  std::optional<Role> of_block(std::int64_t layer, std::string_view name) const {
    const auto at = static_cast<std::size_t>(layer);
    const Axis hidden{&kept_.hidden, 1, shape_.hidden}, ffn{&kept_.ffn[at], 1, shape_.ffn},
        q{&kept_.heads[at], shape_.head_dim, shape_.heads * shape_.head_dim},
        kv{&kept_.kv_heads[at], shape_.head_dim, shape_.kv_heads * shape_.head_dim};
    const std::pair<std::string_view, std::pair<Axis, Axis>> linears[] = {
        {"self_attn.q_proj.", {q, hidden}}, {"self_attn.k_proj.", {kv, hidden}}, {"self_attn.v_proj.", {kv, hidden}},
        {"self_attn.o_proj.", {hidden, q}}, {"mlp.gate_proj.", {ffn, hidden}},   {"mlp.up_proj.", {ffn, hidden}},
        {"mlp.down_proj.", {hidden, ffn}},
    };
    for (const auto& [prefix, axes] : linears) {
      if (!name.starts_with(prefix)) continue;
      if (name.substr(prefix.size()) == "weight") return Role{{axes.first, axes.second}};
      if (name.substr(prefix.size()) == "bias") return Role{{axes.first}};
    }
    for (const std::string_view norm : {"input_layernorm.weight", "post_attention_layernorm.weight",
                                        "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"})
      if (name == norm) return Role{{hidden}, scaling_.norms, scaling_.unit_offset ? 1.0 : 0.0};
    const Axis head{nullptr, 1, shape_.head_dim}, pair{};
    if (name == "self_attn.q_norm.weight" || name == "self_attn.k_norm.weight") return Role{{head}};
    if (name == "self_attn.rotary_emb.inv_freq") return Role{{pair}};
    return std::nullopt;
  }

 private:
  const DecoderShape& shape_;
  const KeptParts& kept_;
  const SliceScaling& scaling_;
};

Result<TensorSlice> slice_of(const TensorView& tensor, std::string name, const Role& role) {
  bool fits = tensor.shape.size() == role.axes.size();
  for (std::size_t i = 0; fits && i < role.axes.size(); ++i)
    fits = role.axes[i].size == 0 || tensor.shape[i] == role.axes[i].size;
  if (!fits)
    return Status(Code::corrupt_data, fmt::format("tensor '{}' has shape [{}], which does not fit config.json",
                                                  tensor.name, fmt::join(tensor.shape, ", ")));
  TensorSlice slice{&tensor, {std::move(name), tensor.dtype, tensor.shape}, {}, {}, role.factor, role.offset};
  for (std::size_t i = 0; i < role.axes.size(); ++i) {
    const Axis& axis = role.axes[i];
    if (!axis.kept) continue;
    Indices stay = spread(*axis.kept, axis.unit, axis.size);
    if (stay.empty()) continue;
    slice.spec.shape[i] = static_cast<std::int64_t>(stay.size());
    // A vector is one row.
    (i + 1 == role.axes.size() ? slice.cols : slice.rows) = std::move(stay);
  }
  if (info(tensor.dtype).block_elems != 1)
    return Status(Code::unsupported,
                  fmt::format("tensor '{}' is of type {}, which cannot be cut", tensor.name, info(tensor.dtype).name));
  return slice;
}

/// Rows of a slice one after the other, in portions of about a MiB.
Status write_slice(const TensorSlice& slice, const TensorSink& sink) {
  constexpr std::size_t portion = std::size_t{1} << 20;
  const TensorView& t = *slice.source;
  const DTypeInfo& type = info(t.dtype);
  const auto element = static_cast<std::size_t>(type.block_bytes);
  const bool scaled = slice.factor != 1;
  if (slice.rows.empty() && slice.cols.empty() && !scaled) return sink(t.bytes);

  const auto source_cols = static_cast<std::size_t>(t.cols());
  const auto cols = slice.cols.empty() ? source_cols : slice.cols.size();
  const std::int64_t rows = slice.rows.empty() ? t.rows() : static_cast<std::int64_t>(slice.rows.size());
  std::vector<std::byte> buffer;
  std::vector<float> values(scaled ? cols : 0);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t row = slice.rows.empty() ? r : slice.rows[static_cast<std::size_t>(r)];
    const std::byte* const from = t.bytes.data() + static_cast<std::size_t>(row) * source_cols * element;
    const std::size_t at = buffer.size();
    buffer.resize(at + cols * element);
    std::byte* const to = buffer.data() + at;
    if (slice.cols.empty())
      std::memcpy(to, from, cols * element);
    else
      for (std::size_t j = 0; j < cols; ++j)
        std::memcpy(to + j * element, from + static_cast<std::size_t>(slice.cols[j]) * element, element);
    if (scaled) {
      type.to_f32(to, values.data(), cols);
      for (float& v : values)
        v = static_cast<float>((static_cast<double>(v) + slice.offset) * slice.factor - slice.offset);
      type.from_f32(values.data(), to, cols);
    }
    if (buffer.size() >= portion || r + 1 == rows) {
      FETTLE_TRY(sink(buffer));
      buffer.clear();
    }
  }
  return {};
}

}  // namespace

KeptParts KeptParts::all(const DecoderShape& dense) {
  const auto layers = static_cast<std::size_t>(dense.layers);
  return {first_indices(dense.layers), first_indices(dense.hidden), std::vector(layers, first_indices(dense.ffn)),
          std::vector(layers, first_indices(dense.heads)), std::vector(layers, first_indices(dense.kv_heads))};
}

DecoderShape KeptParts::shape(const DecoderShape& dense) const {
  const auto first = static_cast<std::size_t>(layers.front());
  const auto size = [](const Indices& kept) { return static_cast<std::int64_t>(kept.size()); };
  return {size(layers), size(hidden), size(ffn[first]), size(heads[first]), size(kv_heads[first]), dense.head_dim};
}

Status check_kept(const KeptParts& kept, const DecoderShape& dense) {
  const auto fail = [](const std::string& problem) { return Status(Code::invalid_argument, problem); };
  const auto layers = static_cast<std::size_t>(dense.layers);
  if (!distinct_below(kept.layers, dense.layers) || !ascending(kept.layers))
    return fail("the kept blocks are not ascending indices of blocks");
  if (!distinct_below(kept.hidden, dense.hidden)) return fail("the kept hidden channels are not distinct indices");
  if (kept.ffn.size() != layers || kept.heads.size() != layers || kept.kv_heads.size() != layers)
    return fail("the kept parts are not of as many blocks as the model has");
  const auto first = static_cast<std::size_t>(kept.layers.front());
  const std::int64_t group = dense.heads / dense.kv_heads;
  for (const std::int64_t layer : kept.layers) {
    const auto i = static_cast<std::size_t>(layer);
    if (!distinct_below(kept.ffn[i], dense.ffn) || !distinct_below(kept.heads[i], dense.heads) ||
        !distinct_below(kept.kv_heads[i], dense.kv_heads))
      return fail(fmt::format("the kept parts of block {} are not distinct indices", layer));
    if (kept.ffn[i].size() != kept.ffn[first].size() || kept.heads[i].size() != kept.heads[first].size() ||
        kept.kv_heads[i].size() != kept.kv_heads[first].size())
      return fail(fmt::format("block {} keeps other sizes than block {}", layer, kept.layers.front()));
    // In order, the kept query heads must fall into runs of one length, each of the next kept KV head.
    const std::size_t run = kept.heads[i].size() / kept.kv_heads[i].size();
    bool grouped = run * kept.kv_heads[i].size() == kept.heads[i].size();
    for (std::size_t h = 0; grouped && h < kept.heads[i].size(); ++h)
      grouped = kept.heads[i][h] / group == kept.kv_heads[i][h / run];
    if (!grouped) return fail(fmt::format("block {} keeps other counts of query heads for its KV heads", layer));
  }
  return {};
}

Result<std::vector<TensorSlice>> slice_tensors(const Checkpoint& dense, const DecoderShape& shape,
                                               const KeptParts& kept, const SliceScaling& scaling) {
  FETTLE_TRY(check_kept(kept, shape));
  const Roles roles(shape, kept, scaling);
  std::vector<TensorSlice> slices;
  for (const TensorView* tensor : dense.tensors()) {
    const auto [layer, rest] = split_layer(tensor->name);
    if (layer >= shape.layers)
      return Status(Code::corrupt_data,
                    fmt::format("tensor '{}' is of a block beyond the {} of config.json", tensor->name, shape.layers));
    const auto role = layer < 0 ? roles.outside_blocks(rest) : roles.of_block(layer, rest);
    if (!role)
      return Status(Code::unsupported,
                    fmt::format("tensor '{}' is none that the model's family has, so nobody knows how to cut it; "
                                "remove it from the checkpoint",
                                tensor->name));
    std::string name = tensor->name;
    if (layer >= 0) {
      const auto at = std::lower_bound(kept.layers.begin(), kept.layers.end(), layer);
      if (at == kept.layers.end() || *at != layer) continue;
      name = fmt::format("model.layers.{}.{}", at - kept.layers.begin(), rest);
    }
    FETTLE_ASSIGN(TensorSlice slice, slice_of(*tensor, std::move(name), *role));
    slices.push_back(std::move(slice));
  }
  return slices;
}

Status write_slices(const std::string& folder, const Json& config, const Checkpoint& dense,
                    const std::vector<TensorSlice>& slices, const std::map<std::string, std::string>& metadata) {
  std::map<std::string_view, const TensorSlice*> by_name;
  std::vector<TensorSpec> specs;
  for (const TensorSlice& slice : slices) {
    by_name.emplace(slice.spec.name, &slice);
    specs.push_back(slice.spec);
  }
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) {
    const TensorSlice& slice = *by_name.at(spec.name);
    Status written = write_slice(slice, sink);
    dense.drop(*slice.source);
    return written;
  };
  CheckpointWriterOptions options;
  options.metadata = metadata;
  return write_checkpoint(folder, config, std::move(specs), source, dense.folder(), options);
}

}  // namespace fettle::kit
