// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/quantization.h"

#include "fettle_kit/compress/targets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <map>

namespace fettle::kit {
namespace {

/// What vLLM runs as one.
const std::vector<std::vector<std::string>> fused = {{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                                                     {"mlp.gate_proj", "mlp.up_proj"}};

GptqVersion version_of(const std::string& format) { return format == "gptq_v2" ? GptqVersion::v2 : GptqVersion::v1; }

std::vector<std::string> names_of(const std::vector<IntegerTarget>& targets) {
  std::vector<std::string> names;
  for (const IntegerTarget& t : targets) names.push_back(t.tensor->name);
  return names;
}

Json compressed_config(const std::vector<IntegerTarget>& targets, std::vector<std::string> dense,
                       const IntegerRecord& record) {
  std::map<int, CompressedGroup> groups;  // by bits: nothing else differs
  for (const IntegerTarget& t : targets) {
    CompressedGroup& group = groups[t.scheme.bits];
    group.format = pack_quantized.name;
    group.weights = pack_quantized_args(t.scheme, record.act_order);
    group.modules.push_back(module_of(t.tensor->name));
  }
  std::vector<CompressedGroup> listed;
  for (auto& [bits, group] : groups) listed.push_back(std::move(group));
  return compressed_tensors_config(std::move(listed), std::move(dense));
}

Json gptq_json(const std::vector<IntegerTarget>& targets, const std::vector<std::string>& dense,
               const IntegerParams& params, const IntegerRecord& record) {
  GptqFormat format;
  format.scheme = targets.front().scheme;
  format.scheme.bits = params.bits;
  format.version = version_of(params.format);
  format.act_order = record.act_order;
  format.static_groups = record.static_groups;
  format.true_sequential = record.true_sequential;
  format.damping = record.damping;
  std::vector<ModuleScheme> modules;
  for (const IntegerTarget& t : targets) modules.push_back({module_of(t.tensor->name), t.scheme});
  return gptq_config(format, modules, dense);
}

bool is_gptq(const IntegerParams& params) { return params.format.starts_with("gptq"); }

/// Bits that no client of the format loads.
Status check_bits(const IntegerParams& p, int bits) {
  if (p.format == "awq") {
    if (bits == 4) return {};
    return {Code::invalid_argument,
            fmt::format("{} bits: AWQ files hold 4; use format: compressed-tensors or gptq", bits), "bits"};
  }
  const bool known = bits == 2 || bits == 4 || bits == 8 || (bits == 3 && is_gptq(p));
  if (known) return {};
  return {Code::invalid_argument,
          is_gptq(p) ? fmt::format("{} bits: gptqmodel 7 and transformers 5 load 2, 3, 4 and 8", bits)
                     : fmt::format("{} bits: releases of compressed-tensors before 0.16 pack them in another way, so "
                                   "clients would disagree; use 2, 4 or 8{}",
                                   bits, bits == 3 ? ", or format: gptq" : ""),
          "bits"};
}

/// A matrix that no client of the format loads: a sentence's rest, or "".
std::string unfit_shape(const TensorView& t, const IntegerParams& p) {
  if (is_gptq(p) && (t.rows() % 32 != 0 || t.cols() % 32 != 0))
    return fmt::format(
        "has shape {}, but gptqmodel 7 wants multiples of 32; put it into 'ignore' or use format: "
        "compressed-tensors",
        shape_text(t.shape));
  if (p.format == "awq" && t.rows() % 8 != 0)
    return fmt::format(
        "has {} rows, but AWQ files pack them by eight; put it into 'ignore' or use format: "
        "compressed-tensors",
        t.rows());
  if (p.format == "awq" && t.name == "lm_head.weight")
    return "is the head, which AWQ clients expect dense; put it into 'ignore' or use format: compressed-tensors";
  return {};
}

std::vector<TensorSpec> packed_specs(const IntegerTarget& target, const std::string& format) {
  const auto& [t, scheme] = target;
  const std::string module = module_of(t->name);
  if (format == "awq") return awq_specs(module, t->rows(), t->cols(), scheme);
  if (format == "compressed-tensors") return pack_quantized_specs(module, t->rows(), t->cols(), scheme);
  return gptq_specs(module, t->rows(), t->cols(), scheme);
}

}  // namespace

Result<std::vector<const TensorView*>> quantization_targets(const Checkpoint& model, const QuantizeParams& params) {
  std::vector<const TensorView*> chosen;
  for (const TensorView* t : model.tensors()) {
    if (first_match(params.targets, t->name) < 0 || first_match(params.ignore, t->name) >= 0) continue;
    const auto refuse = [&](const std::string& what) {
      return Status(Code::invalid_argument,
                    fmt::format("tensor '{}' {}: narrow 'targets' or put it into 'ignore'", t->name, what), "targets");
    };
    const bool plain = t->dtype == DType::f32 || t->dtype == DType::f16 || t->dtype == DType::bf16;
    if (t->shape.size() != 2 || !plain || t->elements() == 0)
      return refuse(fmt::format("is {} {}; only matrices of f32, f16 or bf16 can be quantized", info(t->dtype).name,
                                shape_text(t->shape)));
    if (!t->name.ends_with(".weight") || t->name.find("embed") != std::string::npos)
      return refuse("is not the weight of a linear layer, which is all that clients load quantized");
    chosen.push_back(t);
  }
  if (chosen.empty())
    return Status(Code::invalid_argument,
                  fmt::format("no tensor of the model matches 'targets'; its names look like '{}'",
                              model.tensors().empty() ? "" : model.tensors().back()->name),
                  "targets");
  return chosen;
}

std::vector<std::string> fused_with(const std::string& tensor) {
  for (const auto& group : fused)
    for (const std::string& member : group) {
      const std::string end = member + ".weight";
      if (!tensor.ends_with(end)) continue;
      std::vector<std::string> names;
      for (const std::string& other : group)
        names.push_back(tensor.substr(0, tensor.size() - end.size()) + other + ".weight");
      return names;
    }
  return {tensor};
}

std::vector<std::string> unlike_fused(const Checkpoint& model,
                                      const std::function<std::string(const std::string&)>& kind) {
  std::vector<std::string> sentences;
  for (const TensorView* t : model.tensors())
    for (const auto& group : fused) {
      const std::string end = group[0] + ".weight";
      if (!t->name.ends_with(end)) continue;
      const std::string prefix = t->name.substr(0, t->name.size() - end.size());
      const std::vector<std::string> names = fused_with(t->name);
      if (std::any_of(names.begin(), names.end(),
                      [&](const std::string& other) { return kind(other) != kind(t->name); }))
        sentences.push_back(fmt::format("{}: {} are stored in different ways; transformers loads that, vLLM does not",
                                        prefix.empty() ? "model" : prefix.substr(0, prefix.size() - 1),
                                        fmt::join(group, ", ")));
    }
  return sentences;
}

Status check_integer_params(const IntegerParams& p) {
  FETTLE_TRY(check_bits(p, p.bits));
  for (const auto& [glob, bits] : p.bits_for) FETTLE_TRY(check_bits(p, bits));
  if (p.sharing == "tensor" && p.format != "compressed-tensors")
    return {Code::invalid_argument,
            fmt::format("one scale for a whole matrix cannot be told in {} files; use sharing: channel, or format: "
                        "compressed-tensors",
                        is_gptq(p) ? "GPTQ" : "AWQ"),
            "sharing"};
  if (p.sharing == "tensor" && !p.symmetric)
    return {Code::invalid_argument,
            "compressed-tensors 0.18 has no zero point for a whole matrix; use sharing: channel, or symmetric: true",
            "sharing"};
  if (p.format == "gptq" && !p.symmetric)
    return {
        Code::invalid_argument,
        "version 1 of GPTQ files cannot hold a zero point of 0, and gptqmodel 7 warns of asymmetric ones that it has "
        "not written; use format: gptq_v2 or compressed-tensors",
        "format"};
  return {};
}

std::string weights_attribute(const IntegerParams& p) {
  if (p.format == "compressed-tensors") return "compressed-tensors.pack-quantized";
  return fmt::format("{}.int{}", is_gptq(p) ? "gptq" : "awq", p.bits);
}

Result<std::vector<IntegerTarget>> integer_targets(const Checkpoint& model, const IntegerParams& p) {
  FETTLE_TRY(check_integer_params(p));
  GridScheme scheme;
  scheme.symmetric = p.symmetric;
  scheme.sharing = p.sharing == "group" ? Sharing::group : p.sharing == "channel" ? Sharing::channel : Sharing::tensor;
  scheme.group_size = p.group_size;
  scheme.scale_type = dense_type(p).value_or(weight_type(model));
  scheme.search = p.search;
  std::vector<std::string> globs;
  for (const auto& [glob, bits] : p.bits_for) globs.push_back(glob);

  FETTLE_ASSIGN(const auto tensors, quantization_targets(model, p));
  std::vector<IntegerTarget> targets;
  for (const TensorView* t : tensors) {
    const auto refuse = [&](const std::string& what, const char* where) {
      return Status(Code::invalid_argument, fmt::format("tensor '{}' {}", t->name, what), where);
    };
    if (scheme.sharing == Sharing::group && t->cols() % p.group_size != 0) {
      std::int64_t fits = p.group_size;
      while (t->cols() % fits != 0) fits /= 2;
      return refuse(
          fmt::format("has rows of {} weights, which groups of {} do not divide; {}use sharing: channel or put "
                      "it into 'ignore'",
                      t->cols(), p.group_size, fits >= 16 ? fmt::format("group_size: {} would fit, or ", fits) : ""),
          "group_size");
    }
    if (const std::string unfit = unfit_shape(*t, p); !unfit.empty()) return refuse(unfit, "format");
    const int special = first_match(globs, t->name);
    scheme.bits = special >= 0 ? p.bits_for[static_cast<std::size_t>(special)].second : p.bits;
    targets.push_back({t, scheme});
  }
  return targets;
}

void warn_of_unlike(const Checkpoint& model, const std::vector<IntegerTarget>& targets, const Context& context) {
  std::map<std::string, int> bits;
  for (const IntegerTarget& t : targets) bits[t.tensor->name] = t.scheme.bits;
  const auto kind = [&](const std::string& name) { return bits.contains(name) ? std::to_string(bits[name]) : ""; };
  for (const std::string& sentence : unlike_fused(model, kind)) context.warn(sentence);
}

Status not_finite(const TensorView& t) {
  return {Code::invalid_argument,
          fmt::format("tensor '{}' holds a weight that is NaN or infinite, which no grid holds; repair the model or "
                      "put the tensor into 'ignore'",
                      t.name)};
}

Result<std::vector<float>> finite_weights(const TensorView& t) {
  std::vector<float> weights(static_cast<std::size_t>(t.elements()));
  info(t.dtype).to_f32(t.bytes.data(), weights.data(), weights.size());
  if (std::all_of(weights.begin(), weights.end(), [](float w) { return std::isfinite(w); })) return weights;
  return not_finite(t);
}

std::optional<DType> dense_type(const IntegerParams& params) {
  if (params.format == "compressed-tensors") return std::nullopt;
  return DType::f16;  // as the scales are
}

Result<IntegerWriter> IntegerWriter::create(const std::string& folder, const Checkpoint& model,
                                            const std::vector<IntegerTarget>& targets, const IntegerParams& params,
                                            const IntegerRecord& record,
                                            const std::vector<const TensorView*>& changed) {
  std::map<std::string, std::vector<TensorSpec>> replaced;
  for (const IntegerTarget& t : targets) replaced[t.tensor->name] = packed_specs(t, params.format);
  QuantizedOptions options;
  options.checkpoint.shard_bytes = static_cast<std::uint64_t>(params.shard_size.value);
  options.dense_type = dense_type(params);
  for (const TensorView* t : changed) replaced[t->name] = {carried_spec(*t, options.dense_type)};
  const std::vector<std::string> dense = dense_linears(model, names_of(targets));
  if (is_gptq(params)) {
    options.quantization_config = gptq_json(targets, dense, params, record);
    options.files.emplace_back("quantize_config.json", options.quantization_config);
  } else if (params.format == "awq") {
    options.quantization_config = awq_config(targets.front().scheme, dense);
  } else {
    options.quantization_config = compressed_config(targets, dense, record);
  }
  FETTLE_ASSIGN(QuantizedWriter writer, QuantizedWriter::create(folder, model, std::move(replaced), options));
  return IntegerWriter(std::move(writer), params.format);
}

Status IntegerWriter::put(const IntegerTarget& target, const CodedMatrix& coded) {
  const auto bytes = [&] {
    if (format_ == "awq") return pack_awq(coded);
    if (format_ == "compressed-tensors") return pack_quantized_bytes(coded, target.scheme);
    return pack_gptq(coded, version_of(format_));
  };
  return writer_.replace(target.tensor->name, bytes());
}

double relative_error(ConstMatrix w, const CodedMatrix& coded) {
  double error = 0, total = 0;
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  for (std::int64_t i = 0; i < w.rows; ++i) {
    coded.read(i, MutMatrix(row.data(), 1, w.cols));
    for (std::int64_t j = 0; j < w.cols; ++j) {
      const double x = w(i, j), d = x - static_cast<double>(row[static_cast<std::size_t>(j)]);
      error += d * d;
      total += x * x;
    }
  }
  return total > 0 ? error / total : 0;
}

}  // namespace fettle::kit
