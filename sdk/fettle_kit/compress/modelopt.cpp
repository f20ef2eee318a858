// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/modelopt.h"

#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <span>

namespace fettle::kit {
namespace {

constexpr std::string_view scale_suffix = ".weight_scale";
constexpr const char* file_name = "hf_quant_config.json";

std::int64_t divided_up(std::int64_t n, std::int64_t d) { return n / d + (n % d != 0); }

/// The algorithms whose files we read.
struct Algorithm {
  std::string_view name;
  InputGrid::Kind inputs;
};
constexpr std::array<Algorithm, 5> algorithms = {{{"FP8", InputGrid::Kind::fp8_fixed},
                                                  {"FP8_PER_CHANNEL_PER_TOKEN", InputGrid::Kind::fp8_token},
                                                  {"FP8_PB_WO", InputGrid::Kind::none},
                                                  {"NVFP4", InputGrid::Kind::nvfp4},
                                                  {"W4A16_NVFP4", InputGrid::Kind::none}}};

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Result<const Algorithm*> algorithm_named(const Checkpoint& c, const std::string& name) {
  const auto found = std::find_if(algorithms.begin(), algorithms.end(), [&](const auto& a) { return a.name == name; });
  if (found != algorithms.end()) return &*found;
  std::vector<std::string_view> known;
  for (const Algorithm& a : algorithms) known.push_back(a.name);
  return Status(Code::unsupported, fmt::format("{}: ModelOpt's quant_algo {} cannot be read; known are {}", c.folder(),
                                               in_quotes(name), fmt::join(known, ", ")));
}

/// What the checkpoint says of its algorithms: config.json first, as newer loaders do.
Result<Json> description(const Checkpoint& c) {
  if (has_quant_method(c, "modelopt")) return *quantization_config(c);
  FETTLE_ASSIGN(const Json file, read_json_file(c.folder() + "/" + file_name));
  const auto found = file.is_object() ? file.find("quantization") : file.end();
  if (found == file.end() || !found->is_object())
    return Status(Code::corrupt_data, fmt::format("{}/{}: has no object 'quantization'", c.folder(), file_name));
  return *found;
}

/// E4M3 and f32 scales, or E2M1 with scales of blocks: the types tell.
Result<std::unique_ptr<const PackedMatrix>> open_weight(const Checkpoint& c, const std::string& module) {
  const TensorView* const weight = c.find(module + ".weight");
  const char* const expected = "expected f8_e4m3 or u8 [rows, columns]";
  if (weight == nullptr) return bad_tensor(c, module + ".weight", fmt::format("is missing, {}", expected));
  const bool fp8 = weight->dtype == DType::f8_e4m3;
  if ((!fp8 && weight->dtype != DType::u8) || weight->shape.size() != 2 || weight->elements() == 0)
    return bad_tensor(c, weight->name,
                      fmt::format("is {} {}, {}", info(weight->dtype).name, shape_text(weight->shape), expected));
  FloatView v;
  v.rows = weight->rows();
  v.cols = weight->cols() * (fp8 ? 1 : 2);
  v.codes = reinterpret_cast<const std::uint8_t*>(weight->bytes.data());
  const std::string scale_name = module + std::string(scale_suffix);
  if (!fp8) {
    v.kind = FloatKind::nvfp4;
    if (v.cols % nvfp4_block != 0)
      return bad_tensor(c, weight->name,
                        fmt::format("has rows of {} weights, which groups of {} do not divide", v.cols, nvfp4_block));
    FETTLE_ASSIGN(const TensorView* const scale,
                  require_tensor(c, scale_name, DType::f8_e4m3, {v.rows, v.cols / nvfp4_block}));
    v.block_scales = reinterpret_cast<const std::uint8_t*>(scale->bytes.data());
    FETTLE_ASSIGN(const std::vector<float> factor, read_scales(c, module + ".weight_scale_2", {{}, {1}}));
    v.tensor_scale = factor[0];
    v.divides = false;
    return packed_floats(v);
  }
  const std::int64_t down = divided_up(v.rows, fp8_block), across = divided_up(v.cols, fp8_block);
  FETTLE_ASSIGN(std::vector<float> scales,
                read_scales(c, scale_name, {{}, {1}, {v.rows}, {v.rows, 1}, {down, 1, across, 1}, {down, across}}));
  const std::vector<std::int64_t>& shape = c.find(scale_name)->shape;
  const bool one = shape.empty() || shape == std::vector<std::int64_t>{1};
  const bool row = !one && (shape.size() == 1 || shape == std::vector<std::int64_t>{v.rows, 1});
  v.scale_rows = one ? v.rows : row ? 1 : fp8_block;
  v.scale_cols = one || row ? v.cols : fp8_block;
  return packed_floats(v, std::move(scales));
}

/// Scales of inputs are factors; the grid of NVFP4 wants a divisor.
Result<InputGrid> open_inputs(const Checkpoint& c, const std::string& module, InputGrid::Kind kind) {
  InputGrid grid;
  grid.kind = kind;
  if (kind != InputGrid::Kind::fp8_fixed && kind != InputGrid::Kind::nvfp4) return grid;
  const std::string name = module + ".input_scale";
  FETTLE_ASSIGN(const std::vector<float> scale, read_scales(c, name, {{}, {1}}));
  if (!(scale[0] > 0)) return bad_tensor(c, name, fmt::format("is {}, expected a positive scale", scale[0]));
  grid.scale = kind == InputGrid::Kind::nvfp4 ? 1 / scale[0] : scale[0];
  return grid;
}

Result<std::vector<PackedWeight>> open_modelopt(const Checkpoint& c) {
  FETTLE_ASSIGN(const Json facts, description(c));
  const std::string whole = text_of(facts, "quant_algo");
  std::map<std::string, std::string> named;  // of single layers
  if (const auto layers = facts.find("quantized_layers"); layers != facts.end() && layers->is_object())
    for (const auto& [module, layer] : layers->items())
      if (layer.is_object()) named[module] = text_of(layer, "quant_algo");

  std::vector<PackedWeight> weights;
  for (const TensorView* t : c.tensors()) {
    if (!t->name.ends_with(scale_suffix)) continue;
    const std::string module = t->name.substr(0, t->name.size() - scale_suffix.size());
    const auto own = named.find(module);
    FETTLE_ASSIGN(const Algorithm* const algorithm, algorithm_named(c, own == named.end() ? whole : own->second));
    for (const char* part : {"pre_quant_scale", "svdquant_lora_a"})
      if (const std::string name = fmt::format("{}.{}", module, part); c.find(name) != nullptr)
        return Status(Code::unsupported,
                      fmt::format("{}: tensor {} changes the inputs of its matrix, which cannot be read yet",
                                  c.folder(), in_quotes(name)));
    PackedWeight weight{module + ".weight", {}, nullptr};
    FETTLE_ASSIGN(weight.matrix, open_weight(c, module));
    FETTLE_ASSIGN(weight.inputs, open_inputs(c, module, algorithm->inputs));
    for (const char* part : {"weight", "weight_scale", "weight_scale_2", "input_scale", "k_scale", "v_scale"})
      if (const std::string name = fmt::format("{}.{}", module, part); c.find(name) != nullptr)
        weight.parts.push_back(name);
    weights.push_back(std::move(weight));
  }
  return weights;
}

Json producer() { return {{"name", "modelopt"}, {"version", "0.47.0"}}; }

}  // namespace

const QuantizedLayout modelopt_layout = {"modelopt",
                                         [](const Checkpoint& c) {
                                           if (quantization_config(c) != nullptr)
                                             return has_quant_method(c, "modelopt");
                                           std::error_code ignored;
                                           return std::filesystem::exists(c.folder() + "/" + file_name, ignored);
                                         },
                                         &open_modelopt};

std::string_view modelopt_algorithm(const FloatScheme& s, Activations activations) {
  if (s.kind == FloatKind::nvfp4)
    return activations == Activations::fixed ? "NVFP4" : activations == Activations::none ? "W4A16_NVFP4" : "";
  if (s.kind == FloatKind::mxfp4) return "";
  if (s.sharing == Fp8Sharing::tensor) return activations == Activations::fixed ? "FP8" : "";
  if (s.sharing == Fp8Sharing::channel) return activations == Activations::dynamic ? "FP8_PER_CHANNEL_PER_TOKEN" : "";
  return activations == Activations::none ? "FP8_PB_WO" : "";
}

std::vector<TensorSpec> modelopt_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                       const FloatScheme& s, Activations activations) {
  std::vector<TensorSpec> specs;
  if (s.kind == FloatKind::nvfp4) {
    specs = {{module + ".weight", DType::u8, {rows, cols / 2}},
             {module + ".weight_scale", DType::f8_e4m3, {rows, cols / nvfp4_block}},
             {module + ".weight_scale_2", DType::f32, {}}};
  } else {
    std::vector<std::int64_t> shape;
    if (s.sharing == Fp8Sharing::channel) shape = {rows};
    if (s.sharing == Fp8Sharing::block) shape = {divided_up(rows, fp8_block), 1, divided_up(cols, fp8_block), 1};
    specs = {{module + ".weight", DType::f8_e4m3, {rows, cols}}, {module + ".weight_scale", DType::f32, shape}};
  }
  if (activations == Activations::fixed) specs.push_back({module + ".input_scale", DType::f32, {}});
  return specs;
}

std::vector<std::vector<std::byte>> modelopt_bytes(const FloatMatrix& m, Activations activations,
                                                   float input_magnitude) {
  std::vector<std::vector<std::byte>> all = {as_bytes(m.codes)};
  const bool nvfp4 = m.scheme.kind == FloatKind::nvfp4;
  if (nvfp4) {
    all.push_back(as_bytes(m.block_scales));
    all.push_back(as_bytes(std::vector<float>{m.view().tensor_scale}));
  } else {
    all.push_back(as_bytes(m.scales));
  }
  if (activations == Activations::fixed)
    all.push_back(as_bytes(std::vector<float>{nvfp4 ? 1 / nvfp4_divisor(input_magnitude, BlockScale::plain)
                                                    : fp8_scale(input_magnitude, DType::f32)}));
  return all;
}

Json modelopt_file(std::string_view algorithm, const std::vector<std::string>& dense_modules, bool fp8_cache) {
  Json quantization = {{"quant_algo", algorithm}, {"kv_cache_quant_algo", nullptr}};
  if (fp8_cache) quantization["kv_cache_quant_algo"] = "FP8";
  if (algorithm.ends_with("NVFP4")) quantization["group_size"] = nvfp4_block;
  quantization["exclude_modules"] = dense_modules;
  return {{"producer", producer()}, {"quantization", quantization}};
}

Json modelopt_config(std::string_view algorithm, const std::vector<std::string>& dense_modules, bool fp8_cache) {
  const bool four = algorithm.ends_with("NVFP4");
  Json args = {{"dynamic", false}, {"num_bits", four ? 4 : 8}, {"type", "float"}};
  if (four) args["group_size"] = nvfp4_block;
  Json config = {
      {"ignore", dense_modules}, {"quant_algo", algorithm}, {"producer", producer()}, {"quant_method", "modelopt"}};
  if (fp8_cache) config["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
  if (algorithm == "FP8_PB_WO") return config;  // ModelOpt describes no groups for it
  Json group = Json::object();
  if (algorithm != "W4A16_NVFP4") group["input_activations"] = args;
  group["weights"] = args;
  if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") group["weights"]["strategy"] = "channel";
  group["targets"] = {"Linear"};
  config["config_groups"] = {{"group_0", group}};
  return config;
}

}  // namespace fettle::kit
