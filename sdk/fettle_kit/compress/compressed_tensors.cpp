// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/compressed_tensors.h"

#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>

namespace fettle::kit {
namespace {

constexpr std::string_view scale_suffix = ".weight_scale";

std::span<const CompressedFormat* const> formats() {
  static constexpr std::array<const CompressedFormat*, 5> known = {&pack_quantized, &int_quantized, &float_quantized,
                                                                   &nvfp4_pack_quantized, &mxfp4_pack_quantized};
  return known;
}

Status bad_config(const Checkpoint& c, const std::string& problem, Code code = Code::corrupt_data) {
  return {code, fmt::format("{}/config.json: quantization_config: {}", c.folder(), problem)};
}

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t number_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
}

/// Python's re.match: from the start of the name. Limited, because the pattern is a stranger's; no match if it gives up
/// or is no pattern.
bool regex_matches(const std::string& pattern, const std::string& name) {
  int error = 0;
  PCRE2_SIZE at = 0;
  const std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_ANCHORED, &error, &at, nullptr),
      &pcre2_code_free);
  if (!code) return false;
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code.get(), nullptr), &pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(
      pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), 100'000);
  pcre2_set_depth_limit(limits.get(), 1'000);
  return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0, data.get(),
                     limits.get()) >= 0;
}

struct Group {
  std::vector<std::string> targets;
  std::string format;
  WeightArgs weights;
  InputGrid inputs;  ///< scales from calibration are still missing
};

Result<WeightArgs> weight_args(const Checkpoint& c, const std::string& group, const Json& json) {
  WeightArgs args;
  args.bits = static_cast<int>(std::clamp<std::int64_t>(number_of(json, "num_bits"), 0, 64));
  args.type = text_of(json, "type");
  if (args.type.empty()) args.type = "int";
  if (const auto symmetric = json.find("symmetric"); symmetric != json.end() && symmetric->is_boolean())
    args.symmetric = symmetric->get<bool>();
  args.strategy = text_of(json, "strategy");
  args.group_size = number_of(json, "group_size");
  if (args.strategy.empty())
    args.strategy = args.group_size > 0 ? "group" : args.group_size == -1 ? "channel" : "tensor";
  if (const auto block = json.find("block_structure"); block != json.end() && !block->is_null()) {
    if (block->is_array() && block->size() == 2 && (*block)[0].is_number_integer() && (*block)[1].is_number_integer()) {
      args.block_rows = (*block)[0].get<std::int64_t>();
      args.block_cols = (*block)[1].get<std::int64_t>();
    } else if (block->is_string() && *block == "128x128") {
      args.block_rows = args.block_cols = 128;
    }
    if (args.block_rows < 1 || args.block_cols < 1)
      return bad_config(c, fmt::format("{}: block_structure is {}, expected [rows, columns]", group, block->dump()));
  }
  return args;
}

/// The grid for the inputs of a group's linears; none for kinds that we do not know: the weights can be read all the
/// same.
InputGrid input_grid(const Json& group) {
  const auto args = group.find("input_activations");
  if (args == group.end() || !args->is_object()) return {};
  const auto found = args->find("dynamic");
  const bool dynamic = found != args->end() && found->is_boolean() && found->get<bool>();
  const bool local = found != args->end() && *found == "local";
  const auto symmetric = args->find("symmetric");
  if (symmetric != args->end() && *symmetric == false) return {};
  const std::int64_t bits = number_of(*args, "num_bits"), group_size = number_of(*args, "group_size");
  const std::string type = text_of(*args, "type"), strategy = text_of(*args, "strategy");
  InputGrid grid;
  grid.group = group_size;
  using Kind = InputGrid::Kind;
  if (bits == 8 && strategy == "tensor" && !dynamic && !local)
    grid.kind = type == "float" ? Kind::fp8_fixed : Kind::int8_fixed;
  else if (bits == 8 && strategy == "token" && dynamic)
    grid.kind = type == "float" ? Kind::fp8_token : Kind::int8_token;
  else if (bits == 8 && type == "float" && strategy == "group" && dynamic && group_size > 0)
    grid.kind = Kind::fp8_group;
  else if (bits == 4 && type == "float" && strategy == "tensor_group" && local && group_size == 16)
    grid.kind = Kind::nvfp4;
  else if (bits == 4 && type == "float" && strategy == "group" && dynamic && group_size == 32)
    grid.kind = Kind::mxfp4;
  return grid;
}

/// The same with the scale of that linear from calibration.
Result<InputGrid> calibrated(const Checkpoint& c, const std::string& module, std::int64_t cols, InputGrid grid) {
  using Kind = InputGrid::Kind;
  const bool fixed = grid.kind == Kind::fp8_fixed || grid.kind == Kind::int8_fixed;
  if (grid.kind == Kind::fp8_group && cols % grid.group != 0)
    return bad_tensor(c, module + ".weight",
                      fmt::format("reads {} inputs, which groups of {} do not divide", cols, grid.group));
  if (!fixed && grid.kind != Kind::nvfp4) return grid;
  const std::string name = module + (fixed ? ".input_scale" : ".input_global_scale");
  FETTLE_ASSIGN(const std::vector<float> scale, read_scales(c, name, {{1}, {}}));
  if (!(scale[0] > 0)) return bad_tensor(c, name, fmt::format("is {}, expected a positive scale", scale[0]));
  grid.scale = scale[0];
  return grid;
}

Result<std::vector<Group>> read_groups(const Checkpoint& c) {
  const Json& config = *quantization_config(c);
  const auto listed = config.find("config_groups");
  if (listed == config.end() || !listed->is_object()) return bad_config(c, "has no object 'config_groups'");
  std::vector<Group> groups;
  for (const auto& [name, json] : listed->items()) {
    const auto bad = [&](const char* what) { return bad_config(c, fmt::format("{}: {}", in_quotes(name), what)); };
    if (!json.is_object()) return bad("is no object");
    const auto weights = json.find("weights");
    if (weights == json.end() || weights->is_null()) continue;  // activations only
    if (!weights->is_object()) return bad("'weights' is no object");
    Group group;
    FETTLE_ASSIGN(group.weights, weight_args(c, in_quotes(name), *weights));
    group.format = text_of(json, "format");
    if (group.format.empty()) group.format = text_of(config, "format");
    group.inputs = input_grid(json);
    const auto targets = json.find("targets");
    if (targets == json.end() || !targets->is_array()) return bad("has no list 'targets'");
    for (const Json& target : *targets)
      if (target.is_string()) group.targets.push_back(target.get<std::string>());
    groups.push_back(std::move(group));
  }
  return groups;
}

/// An exact name counts more than a pattern, a pattern more than a class.
const Group* group_of(const std::vector<Group>& groups, const std::string& module) {
  const auto first = [&](auto matches) -> const Group* {
    for (const Group& group : groups)
      if (std::any_of(group.targets.begin(), group.targets.end(), matches)) return &group;
    return nullptr;
  };
  if (const Group* exact = first([&](const std::string& t) { return t == module; })) return exact;
  if (const Group* pattern =
          first([&](const std::string& t) { return t.starts_with("re:") && regex_matches(t.substr(3), module); }))
    return pattern;
  return first([](const std::string& t) { return t == "Linear"; });
}

Result<std::vector<PackedWeight>> open_compressed(const Checkpoint& c) {
  FETTLE_ASSIGN(const std::vector<Group> groups, read_groups(c));
  std::vector<PackedWeight> weights;
  for (const TensorView* t : c.tensors()) {
    if (!t->name.ends_with(scale_suffix)) continue;
    const std::string module = t->name.substr(0, t->name.size() - scale_suffix.size());
    const Group* const group = group_of(groups, module);
    if (group == nullptr) return bad_tensor(c, t->name, "is there, but no config group applies to its module");
    const auto format = std::find_if(formats().begin(), formats().end(),
                                     [&](const CompressedFormat* f) { return f->name == group->format; });
    if (format == formats().end()) {
      std::vector<std::string_view> known;
      for (const CompressedFormat* f : formats()) known.push_back(f->name);
      return bad_config(
          c, fmt::format("format {} cannot be read; known are {}", in_quotes(group->format), fmt::join(known, ", ")),
          Code::unsupported);
    }
    PackedWeight weight{module + ".weight", {}, nullptr};
    FETTLE_ASSIGN(weight.matrix, (*format)->open({&c, module, group->weights}));
    FETTLE_ASSIGN(weight.inputs, calibrated(c, module, weight.matrix->cols(), group->inputs));
    for (const std::string_view part : (*format)->parts)
      if (const std::string name = fmt::format("{}.{}", module, part); c.find(name) != nullptr)
        weight.parts.push_back(name);
    // Scales of what the cache holds, which stand beside the projections: no part of the model as floats.
    for (const char* const kind : {"q", "k", "v"})
      if (module.ends_with(fmt::format(".{}_proj", kind)))
        if (const std::string name = fmt::format("{}.{}_scale", module.substr(0, module.rfind('.')), kind);
            c.find(name) != nullptr)
          weight.parts.push_back(name);
    weights.push_back(std::move(weight));
  }
  return weights;
}

}  // namespace

const QuantizedLayout compressed_tensors_layout = {
    "compressed-tensors", [](const Checkpoint& c) { return has_quant_method(c, "compressed-tensors"); },
    &open_compressed};

Json compressed_tensors_config(std::vector<CompressedGroup> groups, std::vector<std::string> dense_modules,
                               const Json& kv_cache_scheme) {
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return a.modules.size() > b.modules.size(); });
  bool mixed = false;
  Json listed = Json::object();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const CompressedGroup& g = groups[i];
    mixed = mixed || g.format != groups.front().format;
    listed[fmt::format("group_{}", i)] = {{"targets", i == 0 ? std::vector<std::string>{"Linear"} : g.modules},
                                          {"format", g.format},
                                          {"weights", g.weights},
                                          {"input_activations", g.input_activations},
                                          {"output_activations", nullptr}};
  }
  return {{"quant_method", "compressed-tensors"},
          {"version", "0.18.0"},
          {"format", mixed ? "mixed-precision" : groups.front().format},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"ignore", dense_modules},
          {"kv_cache_scheme", kv_cache_scheme},
          {"sparsity_config", Json::object()},
          {"transform_config", Json::object()},
          {"config_groups", listed}};
}

}  // namespace fettle::kit
