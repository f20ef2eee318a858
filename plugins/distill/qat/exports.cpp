// SPDX-License-Identifier: Apache-2.0
#include "exports.h"

#include "fettle_kit/compress/float_grids.h"
#include "fettle_kit/compress/float_quantization.h"
#include "fettle_kit/compress/gguf_mix.h"
#include "fettle_kit/model/gguf_layout.h"

#include "as_exported.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace distill_qat {

using fettle::Code;
using fettle::Result;
using fettle::Status;
using namespace fettle::kit;

namespace {

const char* const default_type = "Q4_0";

Result<const GgufFileType*> gguf_type(const Params& p) {
  const std::string name = p.type.value_or(default_type);
  const auto bad = [](std::string text) { return Status(Code::invalid_argument, std::move(text), "type"); };
  const GgufFileType* type = find_gguf_file_type(name);
  if (type == nullptr) {
    std::vector<std::string_view> known;
    for (const GgufFileType& t : gguf_file_types()) known.push_back(t.name);
    return bad(fmt::format("unknown type '{}'; known are {}", name, fmt::join(known, ", ")));
  }
  if (type->type == DType::f32) return bad("F32 rounds nothing; use scheme: none");
  if (type->name == "Q2_K_S" || needs_gguf_importance("blk.0.attn_q.weight", type->type))
    return bad(fmt::format("{} needs an importance matrix, which weights in training do not have; use {}", type->name,
                           type->name.starts_with("IQ3_") ? "IQ3_S" : "Q2_K"));
  return type;
}

/// By the rules of quantize.gguf without an importance matrix.
Result<std::vector<Export>> gguf_exports(const Params& p, const Checkpoint& student, const Network& network,
                                         DType stored, std::vector<std::string>& warnings) {
  FETTLE_ASSIGN(const GgufFileType* const file, gguf_type(p));
  std::vector<TensorSpec> specs;
  for (const Parameter& parameter : network.parameters()) specs.push_back({parameter.name, stored, parameter.shape});
  FETTLE_ASSIGN(const std::vector<GgufTensor> layouts, gguf_tensors(student.config(), specs));
  std::vector<GgufMixTensor> tensors;
  for (const GgufTensor& t : layouts) tensors.push_back({t.name, t.hf_name, t.shape, t.source});
  const ModelConfig& config = network.config();
  GgufMixModel model;
  FETTLE_ASSIGN(model.architecture, gguf_architecture(student.config()));
  model.layers = config.layers, model.heads = config.heads, model.kv_heads = config.kv_heads;
  FETTLE_ASSIGN(const auto choices, choose_gguf_types(*file, model, tensors, {}));

  std::map<std::string, DType> types;
  std::map<std::string, int> elsewhere;  // what becomes of rows that the block does not divide
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    for (const std::string& part : layouts[i].parts) types[part] = choices[i].type;
    if (choices[i].wanted)
      ++elsewhere[fmt::format("rows of {} are stored as {} instead of {}", layouts[i].shape.back(),
                              info(choices[i].type).name, info(*choices[i].wanted).name)];
  }
  std::vector<Export> exports;
  bool any = false;
  for (const Parameter& parameter : network.parameters()) {
    Export e;
    e.tensor = parameter.name;
    const DType type = types.at(parameter.name);
    e.quantized = info(type).block_elems > 1;
    any = any || type == file->type;
    if (type != DType::f32 && type != stored) e.quantizer = fake_gguf(type);
    exports.push_back(std::move(e));
  }
  for (const auto& [what, count] : elsewhere)
    warnings.push_back(fmt::format("type {}: {}, in {} tensors; so they are in training", file->name, what, count));
  if (!any && stored != file->type)
    return Status(
        Code::invalid_argument,
        fmt::format("no tensor of the student would be {}: its blocks of {} weights divide no row; use a type "
                    "with blocks of 32, such as Q4_0",
                    file->name, info(file->type).block_elems),
        "type");
  return exports;
}

/// By the rules of quantize.rtn.
Result<std::vector<Export>> integer_exports(const Params& p, const Checkpoint& student, const Network& network,
                                            DType stored) {
  FETTLE_ASSIGN(const std::vector<IntegerTarget> targets, integer_targets(student, p));
  const bool gptq = p.format != "compressed-tensors";
  std::map<std::string, GridScheme> schemes;
  for (const IntegerTarget& t : targets) {
    GridScheme& scheme = schemes[t.tensor->name] = t.scheme;
    if (!gptq) scheme.scale_type = stored;  // the type of the checkpoint to come, not of the student
  }
  std::vector<Export> exports;
  for (const Parameter& parameter : network.parameters()) {
    Export e;
    e.tensor = parameter.name;
    const auto scheme = schemes.find(parameter.name);
    if (scheme != schemes.end()) {
      e.quantizer = fake_grid(scheme->second);
      e.quantized = true;
      if (p.learn_steps) e.learned = scheme->second;
    } else if (gptq && stored != DType::f16) {
      e.quantizer = fake_gguf(DType::f16);  // GPTQ files hold every other float as f16
    }
    exports.push_back(std::move(e));
  }
  return exports;
}

bool is_float_scheme(const Params& p) { return p.scheme == "fp8" || p.scheme == "nvfp4" || p.scheme == "mxfp4"; }

/// As quantize.fp8, quantize.nvfp4 and quantize.mxfp4 have them by default, but for `scales`.
Result<FloatScheme> float_scheme(const Params& p, DType stored) {
  FloatScheme scheme;
  scheme.scale_type = stored;
  const auto unknown = [&](const char* known) {
    return Status(Code::invalid_argument,
                  fmt::format("unknown scales '{}' of {}; known are {}", *p.scales, p.scheme, known), "scales");
  };
  if (p.scheme == "nvfp4") {
    const auto scales = find_block_scale(p.scales.value_or("four_over_six"));
    if (!scales) return unknown("plain, four_over_six, sweep");
    scheme.kind = FloatKind::nvfp4;
    scheme.block_scale = *scales;
  } else if (p.scheme == "mxfp4") {
    const auto scales = find_power_scale(p.scales.value_or("nearest"));
    if (!scales) return unknown("floor, nearest, search");
    scheme.kind = FloatKind::mxfp4;
    scheme.power_scale = *scales;
  }
  return scheme;
}

/// By the rules of those techniques.
Result<std::vector<Export>> float_exports(const Params& p, const Checkpoint& student, const Network& network,
                                          DType stored) {
  FloatRecipe recipe;
  FETTLE_ASSIGN(recipe.scheme, float_scheme(p, stored));
  FloatParams params;
  static_cast<QuantizeParams&>(params) = p;
  FETTLE_ASSIGN(const std::vector<FloatTarget> targets, float_targets(student, params, recipe));
  std::set<std::string> names;
  for (const FloatTarget& t : targets) names.insert(t.tensor->name);
  std::vector<Export> exports;
  for (const Parameter& parameter : network.parameters()) {
    Export e;
    e.tensor = parameter.name;
    if (names.contains(e.tensor)) {
      e.quantizer = fake_floats(recipe.scheme);
      e.quantized = true;
      if (recipe.scheme.tensor_scale())
        for (const std::string& name : fused_with(e.tensor))
          if (names.contains(name)) e.sharing.push_back(name);
    }
    exports.push_back(std::move(e));
  }
  return exports;
}

}  // namespace

Status check_scheme(const Params& p) {
  if (p.type && p.scheme != "gguf")
    return {Code::invalid_argument, fmt::format("'type' is of scheme gguf, but the scheme is {}", p.scheme), "type"};
  if (p.learn_steps && (p.scheme != "integer" || !p.symmetric || p.sharing == "tensor" || p.search))
    return {Code::invalid_argument,
            "steps are learned for scheme: integer with symmetric: true, sharing: group or channel, and no search",
            "learn_steps"};
  if (p.scheme == "gguf") FETTLE_TRY(gguf_type(p));
  if (p.scales && p.scheme != "nvfp4" && p.scheme != "mxfp4")
    return {Code::invalid_argument, fmt::format("'scales' is of nvfp4 and mxfp4, but the scheme is {}", p.scheme),
            "scales"};
  if (p.scheme == "integer") FETTLE_TRY(check_integer_params(p));
  if (is_float_scheme(p)) FETTLE_TRY(float_scheme(p, DType::f32));
  return {};
}

Status check_shapes(const Params& p, const fettle::Input& student) {
  // Only the matrices that everyone has; run() looks at all.
  if (!p.ignore.empty() || p.targets != QuantizeParams().targets) return {};
  const auto refuse = [&](std::int64_t span, const char* blocks, const char* instead, const char* where) -> Status {
    for (const char* axis : {"hidden", "ffn"}) {
      const auto width = static_cast<std::int64_t>(student.number(axis));
      if (width % span != 0)
        return {Code::invalid_argument,
                fmt::format("the student has rows of {} weights, which {} of {} do not divide; {}", width, blocks, span,
                            instead),
                where};
    }
    return {};
  };
  if (p.scheme == "integer" && p.sharing == "group")
    return refuse(p.group_size, "groups", "choose another group_size, or sharing: channel", "group_size");
  if (p.scheme == "nvfp4" || p.scheme == "mxfp4")
    return refuse(p.scheme == "nvfp4" ? nvfp4_block : mxfp4_block, "blocks", "use scheme: fp8", "scheme");
  return {};
}

Result<std::vector<Export>> plan_exports(const Params& p, const Checkpoint& student, const Network& network,
                                         DType stored, std::vector<std::string>& warnings) {
  FETTLE_TRY(check_scheme(p));
  if (p.scheme == "gguf") return gguf_exports(p, student, network, stored, warnings);
  if (p.scheme == "integer") return integer_exports(p, student, network, stored);
  if (is_float_scheme(p)) return float_exports(p, student, network, stored);
  return std::vector<Export>();
}

Result<LearnedRanges> show_exports(Network& network, const std::vector<Export>& exports, DType stored) {
  LearnedRanges ranges;
  for (const Export& e : exports) {
    Parameter& parameter = *network.find(e.tensor);
    bool finite = true;
    network.backend().host_view(parameter.value, Access::read, [&](MutMatrix w) {
      for (std::int64_t i = 0; i < w.rows; ++i) finite = finite && std::isfinite(largest_magnitude(w.row(i)));
    });
    if (!finite)
      return Status(
          Code::invalid_argument,
          fmt::format("tensor '{}' holds a weight that is NaN or infinite, which no grid holds; repair the model",
                      e.tensor),
          "student");
    if (!e.quantizer && stored == DType::f32) continue;
    std::vector<Array> sharing;
    for (const std::string& name : e.sharing) sharing.push_back(network.find(name)->value);
    std::shared_ptr<LearnedRange> range;
    if (e.learned)
      range = ranges[e.tensor] = std::make_shared<LearnedRange>(network.backend(), parameter.value, *e.learned);
    network.set_transform(parameter,
                          std::make_shared<AsExported>(stored, e.quantizer, std::move(sharing), std::move(range)));
  }
  return ranges;
}

}  // namespace distill_qat
