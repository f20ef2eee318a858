// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/fp8_layout.h"

#include "fettle_kit/compress/float_matrix.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <array>

namespace fettle::kit {
namespace {

constexpr std::string_view weight_suffix = ".weight", block_scales = ".weight_scale_inv", scales = ".weight_scale";

std::int64_t divided_up(std::int64_t n, std::int64_t d) { return n / d + (n % d != 0); }

/// Rows and columns of a block; {0, 0} if scales are shared otherwise.
Result<std::array<std::int64_t, 2>> block_of(const Checkpoint& c) {
  const Json& config = *quantization_config(c);
  const auto found = config.find("weight_block_size");
  if (found == config.end() || found->is_null()) return std::array<std::int64_t, 2>{};
  const auto size = [](const Json& n) { return n.is_number_integer() && n > 0 && n <= (1 << 20); };
  if (!found->is_array() || found->size() != 2 || !size((*found)[0]) || !size((*found)[1]))
    return Status(Code::corrupt_data,
                  fmt::format("{}/config.json: quantization_config: weight_block_size is {}, expected [rows, columns]",
                              c.folder(), found->dump()));
  return std::array<std::int64_t, 2>{(*found)[0].get<std::int64_t>(), (*found)[1].get<std::int64_t>()};
}

/// What clients round the inputs of a linear to.
Result<InputGrid> inputs_of(const Checkpoint& c, const std::string& module, std::int64_t cols,
                            std::int64_t block_cols) {
  const Json& config = *quantization_config(c);
  const auto scheme = config.find("activation_scheme");
  const bool fixed = scheme != config.end() && *scheme == "static";
  InputGrid grid;
  if (fixed) {
    const std::string name = module + ".input_scale";
    FETTLE_ASSIGN(const std::vector<float> scale, read_scales(c, name, {{}, {1}}));
    if (!(scale[0] > 0)) return bad_tensor(c, name, fmt::format("is {}, expected a positive scale", scale[0]));
    grid.kind = InputGrid::Kind::fp8_fixed;
    grid.scale = scale[0];
  } else if (block_cols == 0) {
    grid.kind = InputGrid::Kind::fp8_token;
  } else if (cols % block_cols == 0) {
    grid.kind = InputGrid::Kind::fp8_group;
    grid.group = block_cols;
  }
  return grid;
}

Result<PackedWeight> open_weight(const Checkpoint& c, const TensorView& weight, std::array<std::int64_t, 2> block) {
  const std::string module = weight.name.substr(0, weight.name.size() - weight_suffix.size());
  if (weight.shape.size() != 2 || weight.elements() == 0)
    return bad_tensor(c, weight.name, fmt::format("is f8_e4m3 {}, expected two dimensions", shape_text(weight.shape)));
  FloatView v;
  v.rows = weight.rows();
  v.cols = weight.cols();
  v.codes = reinterpret_cast<const std::uint8_t*>(weight.bytes.data());
  PackedWeight packed{weight.name, {weight.name}, nullptr};
  std::string name = module + std::string(block[0] > 0 ? block_scales : scales);
  std::vector<float> values;
  if (block[0] > 0) {
    v.scale_rows = block[0];
    v.scale_cols = block[1];
    FETTLE_ASSIGN(values, read_scales(c, name, {{divided_up(v.rows, block[0]), divided_up(v.cols, block[1])}}));
  } else {
    if (c.find(name) == nullptr) name = module + std::string(block_scales);
    FETTLE_ASSIGN(values, read_scales(c, name, {{}, {1}, {v.rows}, {v.rows, 1}}));
    v.scale_rows = values.size() == 1 ? v.rows : 1;
    v.scale_cols = v.cols;
  }
  packed.parts.push_back(std::move(name));
  if (const std::string input = module + ".input_scale"; c.find(input) != nullptr) packed.parts.push_back(input);
  FETTLE_ASSIGN(packed.inputs, inputs_of(c, module, v.cols, block[1]));
  packed.matrix = packed_floats(v, std::move(values));
  return packed;
}

Result<std::vector<PackedWeight>> open_fp8(const Checkpoint& c) {
  FETTLE_ASSIGN(const auto block, block_of(c));
  std::vector<PackedWeight> weights;
  for (const TensorView* t : c.tensors()) {
    if (!t->name.ends_with(weight_suffix) || t->dtype != DType::f8_e4m3) continue;
    FETTLE_ASSIGN(PackedWeight weight, open_weight(c, *t, block));
    weights.push_back(std::move(weight));
  }
  return weights;
}

}  // namespace

const QuantizedLayout fp8_layout = {"fp8", [](const Checkpoint& c) { return has_quant_method(c, "fp8"); }, &open_fp8};

}  // namespace fettle::kit
