// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"

#include "fettle_kit/compress/awq_layout.h"
#include "fettle_kit/compress/compressed_tensors.h"
#include "fettle_kit/compress/gptq_layout.h"
#include "fettle_kit/compress/modelopt.h"

#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstring>
#include <filesystem>

namespace fettle::kit {
namespace {

using test::ScratchFolder;

constexpr std::int64_t rows = 32, cols = 64;

struct Parts {
  Json config;
  std::vector<TensorSpec> specs;
  std::vector<std::vector<std::byte>> bytes;
};

CodedMatrix coded(const GridScheme& scheme) {
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 17) - 8.0F;
  return round_to_grid(ConstMatrix(w.data(), rows, cols), scheme);
}

GridScheme scheme_of(DType scales, bool symmetric) {
  GridScheme s;
  s.group_size = 32;
  s.scale_type = scales;
  s.symmetric = symmetric;
  return s;
}

Parts gptq_parts() {
  GptqFormat format;
  format.scheme = scheme_of(DType::f16, true);
  return {{{"quantization_config", gptq_config(format, {}, {})}},
          gptq_specs("m", rows, cols, format.scheme),
          pack_gptq(coded(format.scheme), GptqVersion::v1)};
}

Parts awq_parts() {
  const GridScheme s = scheme_of(DType::f16, false);
  return {{{"quantization_config", awq_config(s, {"lm_head"})}}, awq_specs("m", rows, cols, s), pack_awq(coded(s))};
}

Parts packed_parts() {
  const GridScheme s = scheme_of(DType::bf16, false);
  CompressedGroup group{"pack-quantized", pack_quantized_args(s, false), nullptr, {"m"}};
  return {{{"quantization_config", compressed_tensors_config({group}, {"lm_head"})}},
          pack_quantized_specs("m", rows, cols, s),
          pack_quantized_bytes(coded(s), s)};
}

Json& weight_args(Parts& parts) { return parts.config["quantization_config"]["config_groups"]["group_0"]["weights"]; }

Parts float_parts(FloatKind kind, Fp8Sharing sharing, Activations activations = Activations::none) {
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 17) - 8.0F;
  FloatScheme s;
  s.kind = kind;
  s.sharing = sharing;
  const FloatMatrix m = *round_to_floats({"w", DType::f32, {rows, cols}, std::as_bytes(std::span(w))}, s, 8);
  CompressedGroup group{
      std::string(float_format(kind).name), compressed_float_args(s), compressed_input_args(s, activations), {"m"}};
  return {{{"quantization_config", compressed_tensors_config({group}, {"lm_head"})}},
          compressed_float_specs("m", rows, cols, s, activations),
          compressed_float_bytes(m, activations, 3)};
}
Parts fp8_parts() { return float_parts(FloatKind::fp8, Fp8Sharing::channel); }
Parts fp8_block_parts() { return float_parts(FloatKind::fp8, Fp8Sharing::block); }
Parts nvfp4_parts() { return float_parts(FloatKind::nvfp4, Fp8Sharing::channel); }
Parts mxfp4_parts() { return float_parts(FloatKind::mxfp4, Fp8Sharing::channel); }

Parts byte_parts() {
  GridScheme s = scheme_of(DType::bf16, true);
  s.bits = 8;
  s.sharing = Sharing::channel;
  CompressedGroup group{"int-quantized", int_quantized_args(), int_quantized_input_args(true), {"m"}};
  return {{{"quantization_config", compressed_tensors_config({group}, {"lm_head"})}},
          int_quantized_specs("m", rows, cols, s.scale_type, true),
          int_quantized_bytes(coded(s), s.scale_type, 0.5F)};
}
Parts fp8_fixed_parts() { return float_parts(FloatKind::fp8, Fp8Sharing::tensor, Activations::fixed); }
Parts nvfp4_fixed_parts() { return float_parts(FloatKind::nvfp4, Fp8Sharing::tensor, Activations::fixed); }

Parts modelopt_parts(FloatKind kind) {
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 17) - 8.0F;
  FloatScheme s;
  s.kind = kind;
  s.sharing = Fp8Sharing::tensor;
  s.reciprocal = true;
  const FloatMatrix m = *round_to_floats({"w", DType::f32, {rows, cols}, std::as_bytes(std::span(w))}, s, 8);
  const auto fixed = Activations::fixed;
  return {{{"quantization_config", modelopt_config(modelopt_algorithm(s, fixed), {"lm_head"})}},
          modelopt_specs("m", rows, cols, s, fixed),
          modelopt_bytes(m, fixed, 3)};
}
Parts modelopt_fp8_parts() { return modelopt_parts(FloatKind::fp8); }
Parts modelopt_nvfp4_parts() { return modelopt_parts(FloatKind::nvfp4); }

/// As DeepSeek stores it: blocks of 16 x 24, whose last ones are narrower.
Parts fp8_inverse_parts() {
  Parts parts{{{"quantization_config",
                {{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}, {"weight_block_size", {16, 24}}}}},
              {{"m.weight", DType::f8_e4m3, {rows, cols}}, {"m.weight_scale_inv", DType::f32, {2, 3}}},
              {std::vector<std::byte>(rows * cols), std::vector<std::byte>(6 * sizeof(float))}};
  for (std::size_t i = 0; i < rows * cols; ++i) parts.bytes[0][i] = std::byte(i % 120);
  for (std::size_t i = 0; i < 6; ++i) {
    const float scale = 0.25F * static_cast<float>(i + 1);
    std::memcpy(parts.bytes[1].data() + i * sizeof(float), &scale, sizeof(float));
  }
  return parts;
}
/// One scale a row, and one for all inputs, as AutoFP8 has it.
Parts fp8_row_parts() {
  Parts parts = fp8_inverse_parts();
  parts.config["quantization_config"] = {{"quant_method", "fp8"}, {"activation_scheme", "static"}};
  parts.specs[1] = {"m.weight_scale", DType::f32, {rows, 1}};
  parts.bytes[1].assign(rows * sizeof(float), std::byte(0x3f));  // 0.747
  parts.specs.push_back({"m.input_scale", DType::f32, {}});
  parts.bytes.emplace_back(4, std::byte(0x3f));
  return parts;
}

Result<DenseCheckpoint> open(const ScratchFolder& folder, const Parts& parts) {
  const auto source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    for (std::size_t i = 0; i < parts.specs.size(); ++i)
      if (parts.specs[i].name == spec.name) {
        std::vector<std::byte> bytes = parts.bytes[i];
        bytes.resize(*byte_size(spec));  // a changed shape has other bytes
        return sink(bytes);
      }
    return {};
  };
  EXPECT_TRUE(write_checkpoint(folder / "m", parts.config, parts.specs, source, "").ok());
  return DenseCheckpoint::open(folder / "m");
}

std::int32_t& entry(Parts& parts, std::size_t tensor, std::size_t index) {
  return *reinterpret_cast<std::int32_t*>(parts.bytes[tensor].data() + index * 4);
}

struct Damage {
  const char* name;
  Parts (*make)();
  void (*change)(Parts&);
  const char* message;  ///< after the folder; without the list of what is known, which grows
};

class DamagedCheckpoint : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedCheckpoint, IsRefused) {
  const ScratchFolder folder;
  Parts parts = GetParam().make();
  GetParam().change(parts);
  const auto opened = open(folder, parts);
  ASSERT_FALSE(opened.ok());
  EXPECT_THAT(opened.error().message(), ::testing::StartsWith(folder / "m" + GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Rows, DamagedCheckpoint,
    ::testing::Values(
        Damage{"method", gptq_parts, [](Parts& p) { p.config["quantization_config"]["quant_method"] = "hqq"; },
               "/config.json: quant_method 'hqq' cannot be read; known are "},
        Damage{"gptq_bits", gptq_parts, [](Parts& p) { p.config["quantization_config"]["bits"] = 5; },
               "/config.json: quantization_config: bits is 5, expected 2, 3, 4 or 8"},
        Damage{"gptq_form", gptq_parts,
               [](Parts& p) { p.config["quantization_config"]["checkpoint_format"] = "marlin"; },
               "/config.json: quantization_config: checkpoint_format 'marlin' cannot be read; known are 'gptq' and "
               "'gptq_v2'"},
        Damage{"gptq_words", gptq_parts,
               [](Parts& p) {
                 p.specs[0].shape = {9, rows};
               },
               ": tensor 'm.g_idx' is i32 [64], expected i32 with one entry for each input of 9 rows of words"},
        Damage{"gptq_zeros", gptq_parts,
               [](Parts& p) {
                 p.specs[1].shape = {2, 5};
               },
               ": tensor 'm.qzeros' is i32 [2, 5], expected i32 [2, 4]"},
        Damage{"gptq_scales", gptq_parts,
               [](Parts& p) {
                 p.specs[2].shape = {2, 31};
               },
               ": tensor 'm.scales' is f16 [2, 31], expected floats [groups, 32]"},
        Damage{"gptq_no_scales", gptq_parts, [](Parts& p) { p.specs.erase(p.specs.begin() + 2); },
               ": tensor 'm.scales' is missing"},
        Damage{"gptq_group", gptq_parts, [](Parts& p) { entry(p, 3, 7) = 2; },
               ": tensor 'm.g_idx' puts input 7 into group 2, but there are 2"},
        Damage{"gptq_negative_group", gptq_parts, [](Parts& p) { entry(p, 3, 7) = -1; },
               ": tensor 'm.g_idx' puts input 7 into group -1, but there are 2"},
        Damage{"awq_bits", awq_parts, [](Parts& p) { p.config["quantization_config"]["bits"] = 8; },
               "/config.json: quantization_config: bits is 8, but AWQ files hold 4"},
        Damage{"awq_group", awq_parts, [](Parts& p) { p.config["quantization_config"]["group_size"] = 0; },
               "/config.json: quantization_config: group_size is 0, expected -1 or a positive number"},
        Damage{"awq_group_text", awq_parts, [](Parts& p) { p.config["quantization_config"]["group_size"] = "128"; },
               "/config.json: quantization_config: group_size is \"128\", expected -1 or a positive number"},
        Damage{"awq_version", awq_parts, [](Parts& p) { p.config["quantization_config"]["version"] = "gemv"; },
               "/config.json: quantization_config: version \"gemv\" cannot be read; known is \"gemm\""},
        Damage{"awq_uneven", awq_parts, [](Parts& p) { p.config["quantization_config"]["group_size"] = 48; },
               ": tensor 'm.qweight' is for 64 inputs, which groups of 48 do not divide"},
        Damage{"awq_words", awq_parts,
               [](Parts& p) {
                 p.specs[0].shape = {cols, 5};
               },
               ": tensor 'm.qzeros' is i32 [2, 4], expected i32 [2, 5]"},
        Damage{"awq_flat", awq_parts, [](Parts& p) { p.specs[0].shape = {cols * 4}; },
               ": tensor 'm.qweight' is i32 [256], expected i32 words in two dimensions"},
        Damage{"awq_scales", awq_parts,
               [](Parts& p) {
                 p.specs[2].shape = {2, 31};
               },
               ": tensor 'm.scales' is f16 [2, 31], expected floats [2, 32]"},
        Damage{"awq_infinite", awq_parts, [](Parts& p) { entry(p, 2, 0) = 0x7c007c00; },
               ": tensor 'm.scales' holds inf at 0, which is no scale"},
        Damage{"awq_no_scales", awq_parts, [](Parts& p) { p.specs.erase(p.specs.begin() + 2); },
               ": tensor 'm.scales' is missing, expected floats [2, 32]"},
        Damage{"ct_groups", packed_parts, [](Parts& p) { p.config["quantization_config"].erase("config_groups"); },
               "/config.json: quantization_config: has no object 'config_groups'"},
        Damage{"ct_form", packed_parts,
               [](Parts& p) { p.config["quantization_config"]["config_groups"]["group_0"]["format"] = "marlin-24"; },
               "/config.json: quantization_config: format 'marlin-24' cannot be read; known are "},
        Damage{"ct_target", packed_parts,
               [](Parts& p) { p.config["quantization_config"]["config_groups"]["group_0"]["targets"] = {"re:other"}; },
               ": tensor 'm.weight_scale' is there, but no config group applies to its module"},
        Damage{"ct_words", packed_parts,
               [](Parts& p) {
                 p.specs[0].shape = {rows, 7};
               },
               ": tensor 'm.weight_packed' is i32 [32, 7], expected i32 [32, 8]"},
        Damage{"ct_negative_shape", packed_parts, [](Parts& p) { std::memset(p.bytes[2].data(), 0xff, 8); },
               ": tensor 'm.weight_shape' says -1 x 64, expected positive sizes"},
        Damage{"ct_huge_shape", packed_parts, [](Parts& p) { std::memset(p.bytes[2].data() + 8, 0x7f, 8); },
               ": tensor 'm.weight_shape' says 32 x 9187201950435737471, expected positive sizes"},
        Damage{"ct_scales", packed_parts,
               [](Parts& p) {
                 p.specs[1].shape = {rows, 3};
               },
               ": tensor 'm.weight_scale' is bf16 [32, 3], expected floats [32, 2]"},
        Damage{"ct_zeros", packed_parts, [](Parts& p) { p.specs.pop_back(); },
               ": tensor 'm.weight_zero_point' is missing, expected i32 [4, 2]"},
        Damage{"ct_group_size", packed_parts, [](Parts& p) { weight_args(p)["group_size"] = 48; },
               ": tensor 'm.weight_packed' has rows of 64, which groups of 48 do not divide"},
        Damage{"fp8_strategy", fp8_parts, [](Parts& p) { weight_args(p)["strategy"] = "token"; },
               ": tensor 'm.weight' has weights of type float with 8 bits, strategy token and group_size 0, expected "
               "symmetric float with 8 bits, strategy tensor, channel or block"},
        Damage{"fp8_bits", fp8_parts, [](Parts& p) { weight_args(p)["num_bits"] = 4; },
               ": tensor 'm.weight' has weights of type float with 4 bits, strategy channel and group_size 0, expected "
               "symmetric float with 8 bits, strategy tensor, channel or block"},
        Damage{"fp8_type", fp8_parts, [](Parts& p) { p.specs[0].dtype = DType::i8; },
               ": tensor 'm.weight' is i8 [32, 64], expected f8_e4m3 [rows, columns]"},
        Damage{"fp8_shape", fp8_parts, [](Parts& p) { p.specs[0].shape = {2, 16, 64}; },
               ": tensor 'm.weight' is f8_e4m3 [2, 16, 64], expected f8_e4m3 [rows, columns]"},
        Damage{"fp8_empty", fp8_parts, [](Parts& p) { p.specs[0].shape = {0, 64}; },
               ": tensor 'm.weight' is f8_e4m3 [0, 64], expected f8_e4m3 [rows, columns]"},
        Damage{"fp8_scales", fp8_parts, [](Parts& p) { p.specs[1].shape = {31, 1}; },
               ": tensor 'm.weight_scale' is f32 [31, 1], expected floats [32, 1]"},
        Damage{"fp8_nan", fp8_parts, [](Parts& p) { entry(p, 1, 3) = 0x7fc00000; },
               ": tensor 'm.weight_scale' holds nan at 3, which is no scale"},
        Damage{"fp8_blocks", fp8_block_parts, [](Parts& p) { weight_args(p)["block_structure"] = {16, 48}; },
               ": tensor 'm.weight_scale' is f32 [1, 1], expected floats [2, 2]"},
        Damage{"nvfp4_group", nvfp4_parts, [](Parts& p) { weight_args(p)["group_size"] = 32; },
               ": tensor 'm.weight_packed' has weights of type float with 4 bits, strategy tensor_group and group_size "
               "32, expected symmetric float with 4 bits, strategy tensor_group and group_size 16"},
        Damage{"nvfp4_columns", nvfp4_parts, [](Parts& p) { p.specs[0].shape = {32, 36}; },
               ": tensor 'm.weight_packed' has rows of 72 weights, which groups of 16 do not divide"},
        Damage{"nvfp4_scales", nvfp4_parts, [](Parts& p) { p.specs[1].shape = {32, 3}; },
               ": tensor 'm.weight_scale' is f8_e4m3 [32, 3], expected f8_e4m3 [32, 4]"},
        Damage{"nvfp4_no_divisor", nvfp4_parts, [](Parts& p) { p.specs.pop_back(); },
               ": tensor 'm.weight_global_scale' is missing, expected floats [1] or []"},
        Damage{"nvfp4_divisor", nvfp4_parts, [](Parts& p) { entry(p, 2, 0) = 0; },
               ": tensor 'm.weight_global_scale' is 0, expected a positive divisor"},
        Damage{"mxfp4_scales", mxfp4_parts, [](Parts& p) { p.specs[1].dtype = DType::i8; },
               ": tensor 'm.weight_scale' is i8 [32, 2], expected u8 [32, 2]"},
        Damage{"int_type", byte_parts, [](Parts& p) { p.specs[0].dtype = DType::u8; },
               ": tensor 'm.weight' is u8 [32, 64], expected i8 in two dimensions"},
        Damage{"int_bits", byte_parts, [](Parts& p) { weight_args(p)["num_bits"] = 4; },
               ": tensor 'm.weight' has weights of type int with 4 bits, expected int with 8"},
        Damage{"int_strategy", byte_parts, [](Parts& p) { weight_args(p)["strategy"] = "block"; },
               ": tensor 'm.weight' has strategy 'block', expected group, channel or tensor"},
        Damage{"int_scales", byte_parts, [](Parts& p) { p.specs[1].shape = {rows}; },
               ": tensor 'm.weight_scale' is bf16 [32], expected floats [32, 1]"},
        Damage{"int_zeros", byte_parts, [](Parts& p) { weight_args(p)["symmetric"] = false; },
               ": tensor 'm.weight_zero_point' is missing, expected i8 [32, 1]"},
        Damage{"int_no_weight", byte_parts, [](Parts& p) { p.specs.erase(p.specs.begin()); },
               ": tensor 'm.weight' is missing, expected i8 in two dimensions"},
        Damage{"fp8_no_input_scale", fp8_fixed_parts, [](Parts& p) { p.specs.pop_back(); },
               ": tensor 'm.input_scale' is missing, expected floats [1] or []"},
        Damage{"nvfp4_input_divisor", nvfp4_fixed_parts,
               [](Parts& p) { entry(p, 3, 0) = static_cast<std::int32_t>(0xbf800000U); },
               ": tensor 'm.input_global_scale' is -1, expected a positive scale"},
        Damage{"fp8_input_groups", fp8_block_parts,
               [](Parts& p) {
                 p.config["quantization_config"]["config_groups"]["group_0"]["input_activations"] = {
                     {"num_bits", 8}, {"type", "float"}, {"strategy", "group"}, {"group_size", 48}, {"dynamic", true}};
               },
               ": tensor 'm.weight' reads 64 inputs, which groups of 48 do not divide"},
        Damage{"deepseek_block", fp8_inverse_parts,
               [](Parts& p) {
                 p.config["quantization_config"]["weight_block_size"] = {0, 128};
               },
               "/config.json: quantization_config: weight_block_size is [0,128], expected [rows, columns]"},
        Damage{"deepseek_scales", fp8_inverse_parts, [](Parts& p) { p.specs[1].shape = {3, 2}; },
               ": tensor 'm.weight_scale_inv' is f32 [3, 2], expected floats [2, 3]"},
        Damage{"deepseek_nan", fp8_inverse_parts, [](Parts& p) { entry(p, 1, 4) = 0x7fc00000; },
               ": tensor 'm.weight_scale_inv' holds nan at 4, which is no scale"},
        Damage{"deepseek_no_scales", fp8_inverse_parts, [](Parts& p) { p.specs.pop_back(); },
               ": tensor 'm.weight_scale_inv' is missing, expected floats [2, 3]"},
        Damage{"fp8_flat", fp8_inverse_parts, [](Parts& p) { p.specs[0].shape = {rows * cols}; },
               ": tensor 'm.weight' is f8_e4m3 [2048], expected two dimensions"},
        Damage{"fp8_row_scales", fp8_row_parts, [](Parts& p) { p.specs[1].shape = {rows + 1}; },
               ": tensor 'm.weight_scale' is f32 [33], expected floats [] or [1] or [32] or [32, 1]"},
        Damage{"fp8_static_scale", fp8_row_parts, [](Parts& p) { p.specs.pop_back(); },
               ": tensor 'm.input_scale' is missing, expected floats [] or [1]"},
        Damage{"fp8_input_scale", fp8_row_parts, [](Parts& p) { entry(p, 2, 0) = 0; },
               ": tensor 'm.input_scale' is 0, expected a positive scale"},
        Damage{"modelopt_algorithm", modelopt_fp8_parts,
               [](Parts& p) { p.config["quantization_config"]["quant_algo"] = "W4A16_AWQ"; },
               ": ModelOpt's quant_algo 'W4A16_AWQ' cannot be read; known are "},
        Damage{"modelopt_type", modelopt_fp8_parts, [](Parts& p) { p.specs[0].dtype = DType::i8; },
               ": tensor 'm.weight' is i8 [32, 64], expected f8_e4m3 or u8 [rows, columns]"},
        Damage{"modelopt_scale", modelopt_fp8_parts, [](Parts& p) { p.specs[1].shape = {31}; },
               ": tensor 'm.weight_scale' is f32 [31], expected floats [] or [1] or [32] or [32, 1] or [1, 1, 1, 1] or "
               "[1, 1]"},
        Damage{"modelopt_no_input_scale", modelopt_fp8_parts, [](Parts& p) { p.specs.pop_back(); },
               ": tensor 'm.input_scale' is missing, expected floats [] or [1]"},
        Damage{"modelopt_columns", modelopt_nvfp4_parts, [](Parts& p) { p.specs[0].shape = {32, 36}; },
               ": tensor 'm.weight' has rows of 72 weights, which groups of 16 do not divide"},
        Damage{"modelopt_blocks", modelopt_nvfp4_parts, [](Parts& p) { p.specs[1].shape = {32, 3}; },
               ": tensor 'm.weight_scale' is f8_e4m3 [32, 3], expected f8_e4m3 [32, 4]"},
        Damage{"modelopt_second_scale", modelopt_nvfp4_parts, [](Parts& p) { p.specs[2].name = "m.other"; },
               ": tensor 'm.weight_scale_2' is missing, expected floats [] or [1]"},
        Damage{"modelopt_smoothed", modelopt_nvfp4_parts, [](Parts& p) { p.specs[3].name = "m.pre_quant_scale"; },
               ": tensor 'm.pre_quant_scale' changes the inputs of its matrix, which cannot be read yet"}),
    [](const auto& row) { return row.param.name; });

/// value = code * the scale of its block, whatever rows are asked for.
TEST(Fp8Layout, ReadsAnyRowsOfBlocks) {
  const ScratchFolder folder;
  const Parts parts = fp8_inverse_parts();
  const auto opened = open(folder, parts);
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_EQ(opened->layout(), "fp8");
  ASSERT_EQ(opened->tensors().size(), 1U);
  EXPECT_EQ(opened->find("m.weight")->parts.size(), 2U);
  std::vector<float> codes(rows * cols);
  info(DType::f8_e4m3).to_f32(parts.bytes[0].data(), codes.data(), codes.size());
  for (const std::int64_t first : {0, 3, 15, 21}) {
    std::vector<float> got(11 * cols);
    DenseCheckpoint::read(*opened->find("m.weight"), first, MutMatrix(got.data(), 11, cols));
    for (std::int64_t i = 0; i < 11; ++i)
      for (std::int64_t j = 0; j < cols; ++j) {
        const float scale = 0.25F * static_cast<float>((first + i) / 16 * 3 + j / 24 + 1);
        ASSERT_EQ(got[static_cast<std::size_t>(i * cols + j)],
                  codes[static_cast<std::size_t>((first + i) * cols + j)] * scale);
      }
  }
}

TEST(Fp8Layout, TellsWhatClientsRoundInputsTo) {
  Parts uneven = fp8_inverse_parts(), even = uneven, rowwise = fp8_row_parts();
  even.config["quantization_config"]["weight_block_size"] = {16, 32};
  even.specs[1].shape = {2, 2};
  const auto grid = [](const Parts& parts) {
    const ScratchFolder folder;
    const auto opened = open(folder, parts);
    EXPECT_TRUE(opened.ok()) << opened.error().message();
    return opened->find("m.weight")->inputs;
  };
  EXPECT_EQ(grid(uneven).kind, InputGrid::Kind::none);
  EXPECT_EQ(grid(even).kind, InputGrid::Kind::fp8_group);
  EXPECT_EQ(grid(even).group, 32);
  EXPECT_EQ(grid(rowwise).kind, InputGrid::Kind::fp8_fixed);
  rowwise.config["quantization_config"]["activation_scheme"] = "dynamic";
  EXPECT_EQ(grid(rowwise).kind, InputGrid::Kind::fp8_token);
}

/// Older exports say what they are beside config.json only.
TEST(DenseCheckpoint, ReadsModelOptsOwnFile) {
  const ScratchFolder folder;
  Parts parts = modelopt_nvfp4_parts();
  parts.config = Json::object();
  EXPECT_FALSE(open(folder, parts)->find("m.weight")->packed);  // an u8 tensor like any other
  ASSERT_TRUE(write_json_file(folder / "m/hf_quant_config.json", modelopt_file("NVFP4", {})).ok());
  const auto opened = DenseCheckpoint::open(folder / "m");
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_TRUE(opened->find("m.weight")->packed);
  ASSERT_TRUE(write_json_file(folder / "m/hf_quant_config.json", Json::array()).ok());
  EXPECT_EQ(DenseCheckpoint::open(folder / "m").error().message(),
            folder / "m/hf_quant_config.json" + ": has no object 'quantization'");
}

/// MIXED_PRECISION names the algorithm of each layer.
TEST(DenseCheckpoint, ReadsModelOptsAlgorithmsOfLayers) {
  const ScratchFolder folder;
  Parts parts = modelopt_fp8_parts();
  Json& config = parts.config["quantization_config"];
  config["quant_algo"] = "MIXED_PRECISION";
  config["quantized_layers"] = {{"m", {{"quant_algo", "FP8"}}}};
  const auto opened = open(folder, parts);
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_EQ(opened->find("m.weight")->inputs.kind, InputGrid::Kind::fp8_fixed);
}

TEST(DenseCheckpoint, TellsWhatClientsRoundInputsTo) {
  const auto grid = [](const Parts& parts) {
    const ScratchFolder folder;
    const auto opened = open(folder, parts);
    EXPECT_TRUE(opened.ok()) << opened.error().message();
    return opened->find("m.weight")->inputs;
  };
  using Kind = InputGrid::Kind;
  EXPECT_EQ(grid(fp8_parts()).kind, Kind::none);
  EXPECT_EQ(grid(fp8_fixed_parts()).kind, Kind::fp8_fixed);
  EXPECT_EQ(grid(fp8_fixed_parts()).scale, 3.0F / 448);
  EXPECT_EQ(grid(nvfp4_fixed_parts()).kind, Kind::nvfp4);
  EXPECT_EQ(grid(nvfp4_fixed_parts()).scale, 448 * 6 / 3.0F);
  const auto dynamic = [](FloatKind kind, Fp8Sharing sharing) {
    return float_parts(kind, sharing, Activations::dynamic);
  };
  EXPECT_EQ(grid(dynamic(FloatKind::fp8, Fp8Sharing::channel)).kind, Kind::fp8_token);
  EXPECT_EQ(grid(dynamic(FloatKind::mxfp4, Fp8Sharing::channel)).kind, Kind::mxfp4);
}

TEST(DenseCheckpoint, LeavesScalesOfTheCacheBehind) {
  const ScratchFolder folder;
  Parts parts = fp8_parts();
  for (TensorSpec& spec : parts.specs) spec.name.replace(0, 1, "self_attn.k_proj");
  parts.specs.push_back({"self_attn.k_scale", DType::f32, {1}});
  parts.bytes.emplace_back(4);
  const auto opened = open(folder, parts);
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_EQ(opened->find("self_attn.k_scale"), nullptr);
  EXPECT_EQ(opened->tensors().size(), 1U);
}

TEST(DenseCheckpoint, MatchesPatternsFromTheStartOfTheName) {
  const ScratchFolder folder;
  Parts parts = packed_parts();
  parts.config["quantization_config"]["config_groups"]["group_0"]["targets"] = {"re:m$"};
  const auto opened = open(folder, parts);
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_NE(opened->find("m.weight")->packed, nullptr);
}

TEST(DenseCheckpoint, GivesUpOnPatternsThatTakeForever) {
  const ScratchFolder folder;
  Parts parts = packed_parts();
  for (TensorSpec& spec : parts.specs) spec.name = std::string(60, 'a') + spec.name.substr(1);
  parts.config["quantization_config"]["config_groups"]["group_0"]["targets"] = {"re:(a+)+b"};
  EXPECT_FALSE(open(folder, parts).ok());
}

TEST(AwqLayout, ReadsAnyRowsOfWhatItWrote) {
  const ScratchFolder folder;
  const auto opened = open(folder, awq_parts());
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  const CodedMatrix written = coded(scheme_of(DType::f16, false));
  for (const std::int64_t first : {0, 3, 8, 21}) {
    std::vector<float> got(11 * cols), expected(got.size());
    DenseCheckpoint::read(*opened->find("m.weight"), first, MutMatrix(got.data(), 11, cols));
    written.read(first, MutMatrix(expected.data(), 11, cols));
    EXPECT_EQ(got, expected);
  }
}

/// As AutoAWQ itself words its config, and without what it leaves out in older releases.
TEST(AwqLayout, ReadsWhatOtherWritersSayOfTheirFiles) {
  const ScratchFolder folder;
  Parts parts = awq_parts();
  parts.config["quantization_config"] = {
      {"backend", "autoawq"},      {"bits", 4},         {"do_fuse", false},
      {"exllama_config", nullptr}, {"group_size", 32},  {"modules_to_not_convert", nullptr},
      {"quant_method", "awq"},     {"version", "GEMM"}, {"zero_point", true}};
  for (const bool versioned : {true, false}) {
    if (!versioned) parts.config["quantization_config"].erase("version");
    const auto opened = open(folder, parts);
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    EXPECT_EQ(opened->layout(), "awq");
    EXPECT_EQ(opened->find("m.weight")->shape, (std::vector<std::int64_t>{rows, cols}));
    std::filesystem::remove_all(folder / "m");
  }
}

/// Others store zero points, and scales of groups, too.
TEST(IntQuantized, ReadsZeroPointsAndGroups) {
  const ScratchFolder folder;
  Parts parts = byte_parts();
  parts.specs.pop_back(), parts.bytes.pop_back();  // the scale of the inputs
  parts.config["quantization_config"]["config_groups"]["group_0"]["input_activations"] = nullptr;
  parts.specs[1] = {"m.weight_scale", DType::f32, {rows, 2}};
  parts.bytes[1].assign(rows * 2 * 4, std::byte{0});
  for (std::size_t i = 0; i < rows * 2; ++i) reinterpret_cast<float*>(parts.bytes[1].data())[i] = i % 2 == 0 ? 1 : 0.5F;
  parts.specs.push_back({"m.weight_zero_point", DType::i8, {rows, 2}});
  parts.bytes.emplace_back(rows * 2, static_cast<std::byte>(-3));
  parts.bytes[0].assign(rows * cols, std::byte{5});
  Json& args = weight_args(parts);
  args["symmetric"] = false, args["strategy"] = "group", args["group_size"] = 32;
  const auto opened = open(folder, parts);
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  std::vector<float> row(cols);
  DenseCheckpoint::read(*opened->find("m.weight"), 1, MutMatrix(row.data(), 1, cols));
  for (std::size_t j = 0; j < row.size(); ++j) EXPECT_EQ(row[j], j < 32 ? 8 : 4);
}

TEST(IntQuantized, ReadsBackWhatItWrote) {
  const ScratchFolder folder;
  const auto opened = open(folder, byte_parts());
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_EQ(opened->tensors().size(), 1U);  // input_scale is of the matrix
  GridScheme s = scheme_of(DType::bf16, true);
  s.bits = 8;
  s.sharing = Sharing::channel;
  std::vector<float> got(5 * cols), expected(got.size());
  DenseCheckpoint::read(*opened->find("m.weight"), 7, MutMatrix(got.data(), 5, cols));
  coded(s).read(7, MutMatrix(expected.data(), 5, cols));
  EXPECT_EQ(got, expected);
}

/// Bytes are signed: 0 is the middle of the grid.
TEST(IntQuantized, StoresSignedBytes) {
  GridScheme s = scheme_of(DType::f32, true);
  s.bits = 8;
  s.sharing = Sharing::channel;
  const std::vector<float> w{-1, 0, 1, 2};
  const auto bytes = int_quantized_bytes(round_to_grid(ConstMatrix(w.data(), 1, 4), s), DType::f32, std::nullopt);
  ASSERT_EQ(bytes.size(), 2U);
  EXPECT_EQ(bytes[0], (std::vector<std::byte>{std::byte{0xc0}, std::byte{0}, std::byte{64}, std::byte{127}}));
}

/// Version 1 stores zero - 1; a zero point of 8 is a word of sevens.
TEST(GptqLayout, StoresZeroPointsAsItsVersionDoes) {
  const CodedMatrix m = coded(scheme_of(DType::f16, true));
  const auto word = [](const std::vector<std::byte>& bytes) {
    std::uint32_t first = 0;
    std::memcpy(&first, bytes.data(), 4);
    return first;
  };
  EXPECT_EQ(word(pack_gptq(m, GptqVersion::v1)[1]), 0x77777777U);
  EXPECT_EQ(word(pack_gptq(m, GptqVersion::v2)[1]), 0x88888888U);
}

/// Other writers store asymmetric zeros of 0 in version 1 as a borrow across fields, which adding word by word undoes.
TEST(GptqLayout, UndoesBorrowsBetweenZeroPoints) {
  const ScratchFolder folder;
  Parts parts = gptq_parts();
  for (std::size_t i = 0; i < 8; ++i) entry(parts, 1, i) = static_cast<std::int32_t>(0x00000000U - 0x11111111U);
  const auto opened = open(folder, parts);
  ASSERT_TRUE(opened.ok());
  std::vector<float> row(cols);
  DenseCheckpoint::read(*opened->find("m.weight"), 0, MutMatrix(row.data(), 1, cols));
  for (const float x : row) EXPECT_GE(x, 0);
}

}  // namespace
}  // namespace fettle::kit
