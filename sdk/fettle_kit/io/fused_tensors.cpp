// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/fused_tensors.h"

#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <array>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace fettle::kit {
namespace {

/// A part of a fusion, and by how many heads its rows count; "": the parts are equal.
struct Part {
  std::string_view name, heads_key;
};

struct Fusion {
  std::string_view model_type, stored;
  std::span<const Part> parts;
};

constexpr std::array<Part, 3> qkv{{{"self_attn.q_proj", "num_attention_heads"},
                                   {"self_attn.k_proj", "num_key_value_heads"},
                                   {"self_attn.v_proj", "num_key_value_heads"}}};
constexpr std::array<Part, 2> gate_up{{{"mlp.gate_proj", ""}, {"mlp.up_proj", ""}}};
constexpr Fusion fusions[] = {{"phi3", "self_attn.qkv_proj", qkv}, {"phi3", "mlp.gate_up_proj", gate_up}};

std::string_view model_type(const Json& config) {
  const auto type = config.is_object() ? config.find("model_type") : config.end();
  return type != config.end() && type->is_string() ? std::string_view(type->get_ref<const std::string&>()) : "";
}

/// "model.layers.3.self_attn.qkv_proj.weight" is "model.layers.3.", "self_attn.qkv_proj", ".weight".
struct BlockTensor {
  std::string_view prefix, module, suffix;
};
std::optional<BlockTensor> parse(std::string_view name) {
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(layers)) return std::nullopt;
  const std::size_t begin = name.find('.', layers.size()), end = name.rfind('.');
  if (begin == std::string_view::npos || end <= begin) return std::nullopt;
  return BlockTensor{name.substr(0, begin + 1), name.substr(begin + 1, end - begin - 1), name.substr(end)};
}

/// How many shares of a fusion's rows a part takes: heads, or 1.
std::int64_t shares_of(const Json& config, const Part& part) {
  if (part.heads_key.empty()) return 1;
  const auto read = [&](std::string_view key) -> std::int64_t {
    const auto value = config.find(key);
    const bool count = value != config.end() && value->is_number_integer() && *value > 0 && *value < (1 << 20);
    return count ? value->get<std::int64_t>() : 0;
  };
  const std::int64_t heads = read(part.heads_key);
  return heads ? heads : read("num_attention_heads");  // without KV heads of their own, every head has one
}

}  // namespace

Result<std::vector<TensorView>> split_fused(const Json& config, const TensorView& stored) {
  std::vector<TensorView> views;
  const std::string_view type = model_type(config);
  for (const Fusion& fusion : fusions) {
    if (fusion.model_type != type) continue;
    const auto name = parse(stored.name);
    if (!name || name->module != fusion.stored || name->suffix != ".weight") continue;
    std::int64_t shares = 0;
    for (const Part& part : fusion.parts) shares += shares_of(config, part);
    const std::int64_t rows = stored.shape.size() == 2 ? stored.shape[0] : 0;
    if (shares == 0 || rows == 0 || rows % shares != 0)
      return Status(Code::corrupt_data,
                    fmt::format("tensor {} has {} rows, which do not divide into the {} equal parts "
                                "that config.json asks for",
                                in_quotes(stored.name), rows, shares));
    std::size_t at = 0;
    for (const Part& part : fusion.parts) {
      const std::int64_t own = rows / shares * shares_of(config, part);
      const std::size_t bytes = stored.bytes.size() / static_cast<std::size_t>(rows) * static_cast<std::size_t>(own);
      views.push_back({fmt::format("{}{}{}", name->prefix, part.name, name->suffix),
                       stored.dtype,
                       {own, stored.shape[1]},
                       stored.bytes.subspan(at, bytes)});
      at += bytes;
    }
  }
  return views;
}

Result<std::vector<StoredTensor>> join_fused(const Json& config, const std::vector<TensorSpec>& specs) {
  std::vector<StoredTensor> stored;
  const std::string_view type = model_type(config);
  std::map<std::string_view, const TensorSpec*> by_name;
  for (const TensorSpec& spec : specs) by_name.emplace(spec.name, &spec);

  /// Nothing for a tensor that is stored as it is called, no parts for one that its first part stands for.
  const auto joined = [&](const TensorSpec& spec) -> Result<std::optional<StoredTensor>> {
    const auto name = parse(spec.name);
    for (const Fusion& fusion : fusions) {
      if (fusion.model_type != type || !name) continue;
      std::size_t at = 0;
      while (at < fusion.parts.size() && fusion.parts[at].name != name->module) ++at;
      if (at == fusion.parts.size()) continue;
      if (name->suffix != ".weight")
        return Status(Code::unsupported,
                      fmt::format("tensor {}: model type '{}' stores it as a part of '{}', which only "
                                  "plain weights can be",
                                  in_quotes(spec.name), type, fusion.stored));
      StoredTensor whole{{fmt::format("{}{}{}", name->prefix, fusion.stored, name->suffix), spec.dtype, spec.shape},
                         {}};
      std::int64_t rows = 0;
      for (const Part& part : fusion.parts) {
        whole.parts.push_back(fmt::format("{}{}{}", name->prefix, part.name, name->suffix));
        const auto found = by_name.find(whole.parts.back());
        if (found == by_name.end() || found->second->dtype != spec.dtype || found->second->shape.size() != 2 ||
            spec.shape.size() != 2 || found->second->shape[1] != spec.shape[1])
          return Status(Code::invalid_argument,
                        fmt::format("tensor {}: model type '{}' stores it with {}, which is missing or of another type "
                                    "or width",
                                    in_quotes(spec.name), type, in_quotes(whole.parts.back())));
        rows += found->second->shape[0];
      }
      whole.spec.shape[0] = rows;
      if (at > 0) whole.parts.clear();
      return std::optional(std::move(whole));
    }
    return std::optional<StoredTensor>();
  };
  for (const TensorSpec& spec : specs) {
    FETTLE_ASSIGN(std::optional<StoredTensor> whole, joined(spec));
    if (!whole)
      stored.push_back({spec, {spec.name}});
    else if (!whole->parts.empty())
      stored.push_back(*std::move(whole));
  }
  return stored;
}

}  // namespace fettle::kit
