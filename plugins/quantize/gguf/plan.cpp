// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/model/mixture.h"
#include "fettle_kit/model/weights.h"

#include "target.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <tuple>

namespace quantize_gguf {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

/// "blk.7.ffn_down.weight" -> "blk.*.ffn_down.weight": what tensors of all layers have in common.
std::string without_layer(const std::string& name) {
  if (!name.starts_with("blk.")) return name;
  const std::size_t dot = name.find('.', 4);
  return dot == std::string::npos ? name : "blk.*" + name.substr(dot);
}

/// One sentence for all tensors whose rows did not fit, grouped so that it stays readable.
std::string fallback_warning(const std::vector<PlannedTensor>& tensors, std::string_view type) {
  std::map<std::tuple<std::string, std::int64_t, DType, DType>, int> groups;
  for (const PlannedTensor& t : tensors)
    if (t.choice.wanted)
      ++groups[{without_layer(t.layout.name), t.layout.shape.back(), *t.choice.wanted, t.choice.type}];
  if (groups.empty()) return {};
  std::vector<std::string> parts;
  for (const auto& [key, count] : groups) {
    const auto& [name, cols, wanted, used] = key;
    parts.push_back(fmt::format("{} ({}rows of {}: {} instead of {})", name,
                                count > 1 ? fmt::format("{} tensors, ", count) : "", cols, info(used).name,
                                info(wanted).name));
  }
  return fmt::format("type {}: rows that the block size does not divide are stored in another type: {}", type,
                     fmt::join(parts, ", "));
}

/// No Weights opens a mixture of experts.
Status check_mixture(const DenseCheckpoint& model) {
  const std::string& folder = model.stored().folder();
  FETTLE_ASSIGN(const auto expected,
                mixture_tensors(model.stored().config(), folder + "/config.json", model.tensors().size()));
  for (const TensorSpec& t : expected) {
    const DenseTensor* const found = model.find(t.name);
    if (found == nullptr || found->shape != t.shape)
      return {Code::corrupt_data,
              fmt::format("{}: tensor '{}' {}", folder, t.name,
                          found == nullptr ? "is missing"
                                           : fmt::format("has shape {}, but config.json asks for {}",
                                                         shape_text(found->shape), shape_text(t.shape)))};
  }
  return {};
}

/// A config.json that contradicts the tensors would go into the metadata, and the file would load nowhere.
Status check_config(const DenseCheckpoint& model) {
  if (gguf_experts(model.stored().config())) return check_mixture(model);
  FETTLE_ASSIGN(const Weights weights, Weights::open(model.stored().folder()));
  FETTLE_TRY(weights.embedding());
  FETTLE_TRY(weights.head());
  FETTLE_TRY(weights.final_norm());
  for (std::int64_t layer = 0; layer < weights.config().layers; ++layer) FETTLE_TRY(weights.block(layer));
  return {};
}

std::int64_t integer(const Json& config, const char* key) {
  const auto it = config.find(key);
  return it != config.end() && it->is_number_integer() ? it->get<std::int64_t>() : 0;
}

Status check_importance(const Plan& plan, bool given) {
  for (const PlannedTensor& t : plan.tensors) {
    if (!t.importance.empty() || !needs_gguf_importance(t.layout.name, t.choice.type)) continue;
    const std::string_view type = info(t.choice.type).name;
    if (given)
      return {
          Code::invalid_argument,
          fmt::format("the importance matrix has nothing for tensor '{}', and {} cannot do without; calibrate one on "
                      "this model, or give the tensor another type",
                      t.layout.name, type),
          "imatrix"};
    return {Code::invalid_argument,
            fmt::format("tensor '{}' as {} needs an importance matrix; connect the port 'imatrix', or give the tensor "
                        "another type",
                        t.layout.name, type),
            "imatrix"};
  }
  return {};
}

/// The types by the rules of a mix.
Status choose_by_rules(Plan& plan, const Json& config, const Options& options, bool importance,
                       const std::vector<GgufMixTensor>& tensors) {
  FETTLE_ASSIGN(const std::string architecture, gguf_architecture(config));
  const auto experts = gguf_experts(config);
  const std::int64_t heads = integer(config, "num_attention_heads"), kv_heads = integer(config, "num_key_value_heads");
  FETTLE_ASSIGN(const auto choices,
                choose_gguf_types(*options.file,
                                  {architecture, integer(config, "num_hidden_layers"), heads,
                                   kv_heads > 0 ? kv_heads : heads, importance, experts ? experts->count : 0},
                                  tensors, options.mix));
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) plan.tensors[i].choice = choices[i];
  plan.file_type = options.file->id;
  return {};
}

/// The id of the plain type that holds most bytes: GGUF has none for a choice of one's own.
int file_type_of(const Plan& plan) {
  std::map<DType, std::uint64_t> bytes;
  for (const PlannedTensor& t : plan.tensors) bytes[t.choice.type] += stored_bytes(t);
  const auto most =
      std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  for (const GgufFileType& file : gguf_file_types())
    if (file.type == most->first) return file.id;
  return 0;
}

/// The types by what they cost, for a size. `overhead`: bytes of the file that are not weights.
Status choose_by_size(Plan& plan, const Options& options, const std::vector<GgufMixTensor>& tensors,
                      std::uint64_t overhead, const std::function<bool()>& cancelled) {
  std::vector<std::vector<DType>> candidates;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto [quantized, type] = fixed_gguf_type(tensors[i], options.mix);
    const std::int64_t cols = tensors[i].shape.back();
    candidates.push_back(type ? std::vector{quantized ? gguf_type_that_fits(*type, cols) : *type}
                              : candidate_types(cols, !plan.tensors[i].importance.empty()));
  }
  FETTLE_ASSIGN(const auto measured, measure_options(plan.tensors, candidates, options.metadata.mode, cancelled));
  const auto weights = static_cast<double>(plan.weights());
  const std::uint64_t budget = options.target->bits > 0
                                   ? static_cast<std::uint64_t>(options.target->bits / 8 * weights)
                                   : options.target->bytes - std::min(overhead, options.target->bytes);
  const auto chosen = choose_storage(measured, budget);
  if (!chosen) {
    std::uint64_t least = 0;
    for (const auto& of_tensor : measured)
      least += std::min_element(of_tensor.begin(), of_tensor.end(), [](const auto& a, const auto& b) {
                 return a.bytes < b.bytes;
               })->bytes;
    return {Code::invalid_argument,
            fmt::format("the smallest types make a file of {} bytes, {:.2f} bits a weight, which is beyond the target; "
                        "allow more, or prune the model first",
                        grouped(least + overhead), static_cast<double>(least) * 8 / weights),
            "target"};
  }
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    const StorageOption& option = measured[i][(*chosen)[i]];
    plan.tensors[i].choice.type = option.type;
    if (measured[i].size() > 1) plan.tensors[i].error = option.error;
  }
  plan.file_type = file_type_of(plan);
  return {};
}

/// Bytes of the file beside the weights: the header, and the most that can lie between tensors.
Result<std::uint64_t> overhead_of(const Plan& plan) {
  std::vector<TensorSpec> specs;
  std::uint64_t weights = 0;
  for (const PlannedTensor& t : plan.tensors) {
    specs.push_back({t.layout.name, DType::f32, t.layout.shape});
    weights += static_cast<std::uint64_t>(row_shape(t).rows * row_shape(t).cols) * sizeof(float);
  }
  FETTLE_ASSIGN(const std::uint64_t size, gguf_file_size(plan.metadata, specs));
  return size - weights + 32 * specs.size();
}

}  // namespace

std::uint64_t stored_bytes(const PlannedTensor& t) {
  return bytes_of(t.choice.type, static_cast<std::uint64_t>(row_shape(t).rows * row_shape(t).cols));
}

std::int64_t Plan::weights() const {
  std::int64_t total = 0;
  for (const PlannedTensor& t : tensors) total += row_shape(t).rows * row_shape(t).cols;
  return total;
}

Result<Plan> plan_export(const DenseCheckpoint& model, const Options& options, const Importance* importance,
                         const std::function<bool()>& cancelled) {
  const Json& config = model.stored().config();
  Plan plan;
  std::vector<TensorSpec> specs;
  for (const DenseTensor& t : model.tensors())
    specs.push_back({t.name, t.stored ? t.stored->dtype : DType::f32, t.shape});
  FETTLE_ASSIGN(std::vector<GgufTensor> layouts, gguf_tensors(config, specs));
  FETTLE_TRY(check_config(model));

  std::vector<GgufMixTensor> mix_tensors;
  for (GgufTensor& layout : layouts) {
    PlannedTensor t;
    for (const std::string& name : layout.parts) {
      const DenseTensor* source = model.find(name);
      t.sources.push_back(source);
      for (const TensorView* part : source->parts) plan.source_bytes += part->bytes.size();
      if (source->packed == nullptr && (!is_float(layout.source) || info(layout.source).to_f32 == nullptr))
        return Status(
            Code::unsupported,
            fmt::format("tensor '{}' is {}, and config.json does not say how to read it as floats: start from "
                        "the original checkpoint",
                        layout.hf_name, info(layout.source).name));
    }
    if (!t.sources.empty()) {
      std::int64_t elements = 1;
      for (const std::int64_t n : layout.shape) elements *= n;
      plan.parameters += elements;
    }
    if (layout.name == "token_embd.weight" &&
        (layout.shape.empty() || layout.shape[0] != integer(config, "vocab_size")))
      return Status(Code::corrupt_data, fmt::format("config.json: 'vocab_size' is {}, but tensor '{}' has {} rows",
                                                    integer(config, "vocab_size"), layout.hf_name,
                                                    layout.shape.empty() ? 0 : layout.shape[0]));
    if (importance != nullptr && layout.shape.size() > 1) {
      const std::int64_t stacked = layout.shape.size() > 2 ? layout.shape.front() : 1;
      FETTLE_ASSIGN(t.importance, importance->columns(layout.name, layout.shape.back(), stacked));
    }
    const bool storable = info(layout.source).gguf >= 0 && layout.source != DType::f64;
    mix_tensors.push_back({layout.name, layout.hf_name, layout.shape, storable ? layout.source : DType::f32});
    t.layout = std::move(layout);
    plan.tensors.push_back(std::move(t));
  }
  if (options.target) {
    // The id of the type is known later, but not how many bytes it takes.
    FETTLE_ASSIGN(plan.metadata, all_metadata(model.stored(), options.metadata, 0, importance, plan.parameters));
    FETTLE_ASSIGN(const std::uint64_t overhead, overhead_of(plan));
    FETTLE_TRY(choose_by_size(plan, options, mix_tensors, overhead, cancelled));
  } else {
    FETTLE_TRY(choose_by_rules(plan, config, options, importance != nullptr, mix_tensors));
  }
  FETTLE_TRY(check_importance(plan, importance != nullptr));
  FETTLE_ASSIGN(plan.metadata,
                all_metadata(model.stored(), options.metadata, plan.file_type, importance, plan.parameters));

  std::vector<std::string> uncalibrated;
  for (PlannedTensor& t : plan.tensors) {
    if (info(t.choice.type).block_elems == 1) t.importance = {};
    if (importance != nullptr && info(t.choice.type).block_elems > 1 && t.importance.empty() &&
        t.layout.name != "token_embd.weight" && t.layout.name != "output.weight")
      uncalibrated.push_back(t.layout.name);
  }
  if (!options.target)
    if (std::string warning = fallback_warning(plan.tensors, options.file->name); !warning.empty())
      plan.warnings.push_back(std::move(warning));
  if (!uncalibrated.empty())
    plan.warnings.push_back(
        fmt::format("the importance matrix has nothing for {} tensors, which are quantized without it: '{}'",
                    uncalibrated.size(), fmt::join(uncalibrated, "', '")));
  return plan;
}

std::string types_table(const Plan& plan) {
  const bool measured =
      std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const auto& t) { return t.error.has_value(); });
  std::string out =
      measured ? "| tensor | shape | type | bits a weight | bytes | relative error |\n|---|---|---|---|---|---|\n"
               : "| tensor | shape | type | bits a weight | bytes |\n|---|---|---|---|---|\n";
  for (const PlannedTensor& t : plan.tensors) {
    const DTypeInfo& type = info(t.choice.type);
    out += fmt::format("| {} | {} | {} | {:.4g} | {} |", t.layout.name, fmt::join(t.layout.shape, " x "), type.name,
                       8.0 * static_cast<double>(type.block_bytes) / static_cast<double>(type.block_elems),
                       grouped(stored_bytes(t)));
    if (measured) out += t.error ? fmt::format(" {:.3g} |", *t.error) : std::string("  |");
    out += '\n';
  }
  return out;
}

}  // namespace quantize_gguf
