// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/quantized_layout.h"

#include "fettle_kit/compress/awq_layout.h"
#include "fettle_kit/compress/compressed_tensors.h"
#include "fettle_kit/compress/fp8_layout.h"
#include "fettle_kit/compress/gptq_layout.h"
#include "fettle_kit/compress/modelopt.h"
#include "fettle_kit/compress/sparse24_checkpoint.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>

namespace fettle::kit {

std::span<const QuantizedLayout* const> quantized_layouts() {
  static constexpr std::array<const QuantizedLayout*, 6> layouts = {
      &gptq_layout, &awq_layout, &compressed_tensors_layout, &modelopt_layout, &fp8_layout, &sparse24_layout};
  return layouts;
}

const Json* quantization_config(const Checkpoint& checkpoint) {
  const auto found = checkpoint.config().find("quantization_config");
  return found != checkpoint.config().end() && found->is_object() ? &*found : nullptr;
}

bool has_quant_method(const Checkpoint& checkpoint, std::string_view method) {
  const Json* config = quantization_config(checkpoint);
  if (config == nullptr) return false;
  const auto found = config->find("quant_method");
  return found != config->end() && found->is_string() && found->get_ref<const std::string&>() == method;
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Status bad_tensor(const Checkpoint& checkpoint, std::string_view tensor, const std::string& problem) {
  return {Code::corrupt_data, fmt::format("{}: tensor {} {}", checkpoint.folder(), in_quotes(tensor), problem)};
}

Result<const TensorView*> require_tensor(const Checkpoint& checkpoint, const std::string& name, DType dtype,
                                         const std::vector<std::int64_t>& shape) {
  const TensorView* tensor = checkpoint.find(name);
  const std::string expected = fmt::format("{} {}", info(dtype).name, shape_text(shape));
  if (tensor == nullptr) return bad_tensor(checkpoint, name, "is missing, expected " + expected);
  if (tensor->dtype != dtype || tensor->shape != shape)
    return bad_tensor(
        checkpoint, name,
        fmt::format("is {} {}, expected {}", info(tensor->dtype).name, shape_text(tensor->shape), expected));
  return tensor;
}

Result<std::vector<float>> read_scales(const Checkpoint& checkpoint, const std::string& name,
                                       const std::vector<std::vector<std::int64_t>>& shapes) {
  std::vector<std::string> texts;
  for (const auto& shape : shapes) texts.push_back(shape_text(shape));
  const std::string expected = fmt::format("expected floats {}", fmt::join(texts, " or "));
  const TensorView* const tensor = checkpoint.find(name);
  if (tensor == nullptr) return bad_tensor(checkpoint, name, "is missing, " + expected);
  if (!is_float(tensor->dtype) || std::find(shapes.begin(), shapes.end(), tensor->shape) == shapes.end())
    return bad_tensor(checkpoint, name,
                      fmt::format("is {} {}, {}", info(tensor->dtype).name, shape_text(tensor->shape), expected));
  std::vector<float> scales(static_cast<std::size_t>(tensor->elements()));
  info(tensor->dtype).to_f32(tensor->bytes.data(), scales.data(), scales.size());
  for (std::size_t i = 0; i < scales.size(); ++i)
    if (!std::isfinite(scales[i]))
      return bad_tensor(checkpoint, name, fmt::format("holds {} at {}, which is no scale", scales[i], i));
  return scales;
}

void read_row_of_scales(const TensorView& scales, std::int64_t row, std::span<float> out) {
  const std::uint64_t first = scales.elements() == 1 ? 0 : static_cast<std::uint64_t>(row) * out.size();
  info(scales.dtype).to_f32(scales.bytes.data() + bytes_of(scales.dtype, first), out.data(), out.size());
}

}  // namespace fettle::kit
