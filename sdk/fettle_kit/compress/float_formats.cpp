// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/compressed_tensors.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fettle::kit {
namespace {

std::int64_t divided_up(std::int64_t n, std::int64_t d) { return n / d + (n % d != 0); }

const std::uint8_t* bytes_in(const TensorView& t) { return reinterpret_cast<const std::uint8_t*>(t.bytes.data()); }

Result<const TensorView*> require_matrix(const Checkpoint& c, const std::string& name, DType type) {
  const TensorView* const t = c.find(name);
  const std::string expected = fmt::format("expected {} [rows, columns]", info(type).name);
  if (t == nullptr) return bad_tensor(c, name, "is missing, " + expected);
  if (t->dtype != type || t->shape.size() != 2 || t->elements() == 0)
    return bad_tensor(c, name, fmt::format("is {} {}, {}", info(t->dtype).name, shape_text(t->shape), expected));
  return t;
}

Status bad_args(const CompressedModule& m, std::string_view part, std::string_view expected) {
  const WeightArgs& a = m.weights;
  return bad_tensor(*m.checkpoint, fmt::format("{}.{}", m.name, part),
                    fmt::format("has weights of type {} with {} bits, strategy {} and group_size {}, expected {}",
                                a.type, a.bits, a.strategy, a.group_size, expected));
}

Result<std::unique_ptr<const PackedMatrix>> open_fp8(const CompressedModule& m) {
  const Checkpoint& c = *m.checkpoint;
  const WeightArgs& a = m.weights;
  const bool known = a.strategy == "tensor" || a.strategy == "channel" || (a.strategy == "block" && a.block_rows > 0);
  if (a.type != "float" || a.bits != 8 || !a.symmetric || !known)
    return bad_args(m, "weight", "symmetric float with 8 bits, strategy tensor, channel or block");
  FETTLE_ASSIGN(const TensorView* const weight, require_matrix(c, m.name + ".weight", DType::f8_e4m3));
  FloatView v;
  v.rows = weight->rows();
  v.cols = weight->cols();
  v.codes = bytes_in(*weight);
  v.scale_rows = a.strategy == "tensor" ? v.rows : a.strategy == "channel" ? 1 : a.block_rows;
  v.scale_cols = a.strategy == "block" ? a.block_cols : v.cols;
  std::vector<std::int64_t> shape = {divided_up(v.rows, v.scale_rows), divided_up(v.cols, v.scale_cols)};
  if (a.strategy == "tensor") shape = {1};
  FETTLE_ASSIGN(std::vector<float> scales, read_scales(c, m.name + ".weight_scale", {shape}));
  return packed_floats(v, std::move(scales));
}

Result<std::unique_ptr<const PackedMatrix>> open_fp4(const CompressedModule& m, FloatKind kind, DType scale_type) {
  const Checkpoint& c = *m.checkpoint;
  const std::int64_t block = kind == FloatKind::nvfp4 ? nvfp4_block : mxfp4_block;
  const char* const strategy = kind == FloatKind::nvfp4 ? "tensor_group" : "group";
  if (m.weights.type != "float" || m.weights.bits != 4 || !m.weights.symmetric || m.weights.strategy != strategy ||
      m.weights.group_size != block)
    return bad_args(m, "weight_packed",
                    fmt::format("symmetric float with 4 bits, strategy {} and group_size {}", strategy, block));
  FETTLE_ASSIGN(const TensorView* const packed, require_matrix(c, m.name + ".weight_packed", DType::u8));
  FloatView v;
  v.kind = kind;
  v.rows = packed->rows();
  v.cols = packed->cols() * 2;
  if (v.cols % block != 0)
    return bad_tensor(c, packed->name,
                      fmt::format("has rows of {} weights, which groups of {} do not divide", v.cols, block));
  v.codes = bytes_in(*packed);
  FETTLE_ASSIGN(const TensorView* const scale,
                require_tensor(c, m.name + ".weight_scale", scale_type, {v.rows, v.cols / block}));
  v.block_scales = bytes_in(*scale);
  if (kind == FloatKind::nvfp4) {
    FETTLE_ASSIGN(const std::vector<float> divisor, read_scales(c, m.name + ".weight_global_scale", {{1}, {}}));
    v.tensor_scale = divisor[0];
    if (!(v.tensor_scale > 0))
      return bad_tensor(c, m.name + ".weight_global_scale",
                        fmt::format("is {}, expected a positive divisor", divisor[0]));
  }
  return packed_floats(v);
}

std::vector<std::byte> stored_as(DType type, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * bytes_of(type, 1));
  info(type).from_f32(values.data(), bytes.data(), values.size());
  return bytes;
}

}  // namespace

const CompressedFormat float_quantized = {"float-quantized", {"weight", "weight_scale", "input_scale"}, &open_fp8};
const CompressedFormat nvfp4_pack_quantized = {
    "nvfp4-pack-quantized",
    {"weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"},
    [](const CompressedModule& m) { return open_fp4(m, FloatKind::nvfp4, DType::f8_e4m3); }};
const CompressedFormat mxfp4_pack_quantized = {
    "mxfp4-pack-quantized", {"weight_packed", "weight_scale"}, [](const CompressedModule& m) {
      return open_fp4(m, FloatKind::mxfp4, DType::u8);
    }};

const CompressedFormat& float_format(FloatKind kind) {
  return kind == FloatKind::fp8     ? float_quantized
         : kind == FloatKind::nvfp4 ? nvfp4_pack_quantized
                                    : mxfp4_pack_quantized;
}

std::vector<TensorSpec> compressed_float_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                               const FloatScheme& s, Activations activations) {
  std::vector<TensorSpec> specs;
  if (s.kind == FloatKind::fp8) {
    std::vector<std::int64_t> shape = {rows, 1};
    if (s.sharing == Fp8Sharing::tensor) shape = {1};
    if (s.sharing == Fp8Sharing::block) shape = {divided_up(rows, fp8_block), divided_up(cols, fp8_block)};
    specs = {{module + ".weight", DType::f8_e4m3, {rows, cols}}, {module + ".weight_scale", s.scale_type, shape}};
    if (activations == Activations::fixed) specs.push_back({module + ".input_scale", s.scale_type, {1}});
    return specs;
  }
  const bool nvfp4 = s.kind == FloatKind::nvfp4;
  specs = {{module + ".weight_packed", DType::u8, {rows, cols / 2}},
           {module + ".weight_scale", nvfp4 ? DType::f8_e4m3 : DType::u8, {rows, cols / s.block()}}};
  if (nvfp4) specs.push_back({module + ".weight_global_scale", DType::f32, {1}});
  if (nvfp4 && activations == Activations::fixed) specs.push_back({module + ".input_global_scale", DType::f32, {1}});
  return specs;
}

std::vector<std::vector<std::byte>> compressed_float_bytes(const FloatMatrix& m, Activations activations,
                                                           float input_magnitude) {
  std::vector<std::vector<std::byte>> all = {as_bytes(m.codes)};
  const bool fixed = activations == Activations::fixed;
  if (m.scheme.kind == FloatKind::fp8) {
    all.push_back(stored_as(m.scheme.scale_type, m.scales));
    if (fixed) all.push_back(stored_as(m.scheme.scale_type, {fp8_scale(input_magnitude, m.scheme.scale_type)}));
    return all;
  }
  all.push_back(as_bytes(m.block_scales));
  if (m.scheme.kind == FloatKind::nvfp4) {
    all.push_back(as_bytes(std::vector<float>{m.divisor}));
    if (fixed) all.push_back(as_bytes(std::vector<float>{nvfp4_divisor(input_magnitude, BlockScale::plain)}));
  }
  return all;
}

Json compressed_float_args(const FloatScheme& s) {
  Json args = {{"num_bits", s.packed() ? 4 : 8}, {"type", "float"}, {"symmetric", true}};
  if (s.kind == FloatKind::fp8) {
    args["strategy"] = s.sharing == Fp8Sharing::tensor    ? "tensor"
                       : s.sharing == Fp8Sharing::channel ? "channel"
                                                          : "block";
    if (s.sharing == Fp8Sharing::block) args["block_structure"] = {fp8_block, fp8_block};
  } else {
    args["strategy"] = s.kind == FloatKind::nvfp4 ? "tensor_group" : "group";
    args["group_size"] = s.block();
    args["scale_dtype"] = s.kind == FloatKind::nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8";
    args["zp_dtype"] = args["scale_dtype"];
  }
  args["dynamic"] = false;
  return args;
}

Json compressed_input_args(const FloatScheme& s, Activations activations) {
  if (activations == Activations::none) return nullptr;
  Json args = {{"num_bits", s.packed() ? 4 : 8}, {"type", "float"}, {"symmetric", true}};
  const bool fixed = activations == Activations::fixed;
  switch (s.kind) {
    case FloatKind::fp8:
      args["strategy"] = fixed ? "tensor" : s.sharing == Fp8Sharing::block ? "group" : "token";
      if (args["strategy"] == "group") args["group_size"] = fp8_block;
      args["dynamic"] = !fixed;
      break;
    case FloatKind::nvfp4:
      args["strategy"] = "tensor_group";
      args["group_size"] = nvfp4_block;
      args["dynamic"] = "local";
      args["scale_dtype"] = "torch.float8_e4m3fn";
      args["zp_dtype"] = "torch.float8_e4m3fn";
      args["observer"] = "static_minmax";
      break;
    case FloatKind::mxfp4:
      args["strategy"] = "group";
      args["group_size"] = mxfp4_block;
      args["dynamic"] = true;
      args["scale_dtype"] = "torch.uint8";
      args["zp_dtype"] = "torch.uint8";
      break;
  }
  return args;
}

}  // namespace fettle::kit
