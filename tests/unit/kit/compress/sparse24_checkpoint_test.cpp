// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/sparse24_checkpoint.h"

#include "fettle_kit/compress/dense_checkpoint.h"

#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstring>
#include <functional>

namespace fettle::kit {
namespace {

using test::ScratchFolder;

/// The tensors of a compressed checkpoint with one matrix [32, 64], all pairs (0, 1).
struct Parts {
  Json quantization = {{"quant_method", "sparse24"}, {"format", "sm80"}};
  TensorSpec values{"m.weight_values", DType::f16, {32, 32}};
  TensorSpec meta{"m.weight_meta", DType::i16, {32, 4}};
  std::vector<std::uint16_t> codes = std::vector<std::uint16_t>(32 * 4, 0x4444);
};

Result<DenseCheckpoint> open(const ScratchFolder& folder, const Parts& parts) {
  const auto source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    if (spec.name == parts.meta.name) return sink(std::as_bytes(std::span(parts.codes)));
    return sink(std::vector<std::byte>(*byte_size(spec)));
  };
  const Status written = write_checkpoint(folder / "m", {{"quantization_config", parts.quantization}},
                                          {parts.values, parts.meta}, source, "");
  if (!written.ok()) return written;
  return DenseCheckpoint::open(folder / "m");
}

TEST(Sparse24Checkpoint, ShowsItsMatricesByTheirUsualNames) {
  const ScratchFolder folder;
  const auto model = open(folder, {});
  ASSERT_TRUE(model.ok()) << model.error().message();
  ASSERT_EQ(model->tensors().size(), 1U);
  EXPECT_EQ(model->tensors()[0].name, "m.weight");
  EXPECT_EQ(model->tensors()[0].shape, (std::vector<std::int64_t>{32, 64}));
}

struct Damage {
  const char* name;
  std::function<void(Parts&)> damage;
  const char* message;
};

class DamagedSparse24 : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedSparse24, IsRefused) {
  const ScratchFolder folder;
  Parts parts;
  GetParam().damage(parts);
  const auto model = open(folder, parts);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.error().message(), ::testing::EndsWith(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, DamagedSparse24,
    ::testing::Values(Damage{"format", [](Parts& p) { p.quantization["format"] = "sm90"; },
                             "/config.json: quantization_config.format \"sm90\" cannot be read; known is sm80"},
                      Damage{"no_format", [](Parts& p) { p.quantization.erase("format"); },
                             "/config.json: quantization_config.format is missing and cannot be read; known is sm80"},
                      Damage{"wide_values", [](Parts& p) { p.values.dtype = DType::f32; },
                             ": tensor 'm.weight_values' is f32 [32, 32], expected f16 or bf16 with two dimensions"},
                      Damage{"no_meta", [](Parts& p) { p.meta.name = "other"; },
                             ": tensor 'm.weight_meta' is missing, expected i16 [32, 4]"},
                      Damage{"meta_of_another_size",
                             [](Parts& p) {
                               p.meta.shape = {16, 4};
                               p.codes.resize(64);
                             },
                             ": tensor 'm.weight_meta' is i16 [16, 4], expected i16 [32, 4]"},
                      Damage{
                          "odd_rows",
                          [](Parts& p) {
                            p.values.shape = {16, 32}, p.meta.shape = {16, 4};
                            p.codes.resize(64);
                          },
                          "tensor 'm.weight': 512 values and 64 words of metadata do not make a 2:4 matrix [16, 64]"},
                      Damage{"bad_code", [](Parts& p) { p.codes[0] = 0x4447; },
                             "tensor 'm.weight': row 0, columns 0 to 3: 7 is no code of two of four"}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace fettle::kit
