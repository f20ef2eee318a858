// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/fused_tensors.h"

#include "fettle_kit/io/checkpoint.h"

#include "unit/kit/io/scratch_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <numeric>
#include <span>

namespace fettle::kit {
namespace {

using test::ScratchFolder;

const std::string block = "model.layers.0.";

Json phi3() { return {{"model_type", "phi3"}, {"num_attention_heads", 2}, {"num_key_value_heads", 1}}; }

/// q, k and v of two, one and one heads of width 2, read by 3 inputs.
std::vector<TensorSpec> parts() {
  return {{block + "self_attn.q_proj.weight", DType::f32, {4, 3}},
          {block + "self_attn.k_proj.weight", DType::f32, {2, 3}},
          {"model.norm.weight", DType::f32, {3}},
          {block + "self_attn.v_proj.weight", DType::f32, {2, 3}}};
}

TEST(FusedTensors, ArePutTogetherWhenWrittenAndTakenApartWhenRead) {
  const ScratchFolder scratch;
  const std::string folder = scratch / "model";
  float next = 0;  // each tensor counts on
  const Status written = write_checkpoint(
      folder, phi3(), parts(),
      [&](const TensorSpec& spec, const TensorSink& sink) {
        std::vector<float> values(static_cast<std::size_t>(byte_size(spec).ok() ? *byte_size(spec) / 4 : 0));
        for (float& v : values) v = next++;
        return sink(std::as_bytes(std::span(values)));
      },
      "");
  ASSERT_TRUE(written.ok()) << written.message();

  const auto file = SafetensorsReader::open(folder + "/model.safetensors");
  ASSERT_TRUE(file.ok()) << file.error().message();
  ASSERT_EQ(file->tensors().size(), 2U);
  const TensorView& fused = *file->find(block + "self_attn.qkv_proj.weight");
  EXPECT_EQ(fused.shape, (std::vector<std::int64_t>{8, 3}));

  const auto checkpoint = Checkpoint::open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message();
  EXPECT_EQ(checkpoint->tensors().size(), 4U);
  EXPECT_EQ(checkpoint->find(block + "self_attn.qkv_proj.weight"), nullptr);
  const TensorView& k = *checkpoint->find(block + "self_attn.k_proj.weight");
  EXPECT_EQ(k.shape, (std::vector<std::int64_t>{2, 3}));
  float first = 0;
  info(DType::f32).to_f32(k.bytes.data(), &first, 1);
  EXPECT_EQ(first, 12);
  const TensorView& v = *checkpoint->find(block + "self_attn.v_proj.weight");
  info(DType::f32).to_f32(v.bytes.data(), &first, 1);
  EXPECT_EQ(first, 12 + 6 + 3);
}

TEST(FusedTensors, OfAnotherFamilyStayAsTheyAre) {
  Json llama = phi3();
  llama["model_type"] = "llama";
  const auto stored = join_fused(llama, parts());
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->size(), 4U);
  const TensorView view{block + "self_attn.qkv_proj.weight", DType::f32, {8, 3}, {}};
  const auto split = split_fused(llama, view);
  ASSERT_TRUE(split.ok());
  EXPECT_TRUE(split->empty());
}

TEST(FusedTensors, RefusesRowsThatDoNotDivide) {
  const std::vector<std::byte> bytes(7 * 3 * 4);
  const TensorView view{block + "self_attn.qkv_proj.weight", DType::f32, {7, 3}, bytes};
  EXPECT_EQ(split_fused(phi3(), view).error().message(),
            "tensor 'model.layers.0.self_attn.qkv_proj.weight' has 7 rows, which do not divide into the 4 equal parts "
            "that config.json asks for");
}

TEST(FusedTensors, RefusesAPartWithoutItsNeighbours) {
  auto specs = parts();
  specs.pop_back();
  EXPECT_EQ(join_fused(phi3(), specs).error().message(),
            "tensor 'model.layers.0.self_attn.q_proj.weight': model type 'phi3' stores it with "
            "'model.layers.0.self_attn.v_proj.weight', which is missing or of another type or width");
}

TEST(FusedTensors, RefusesPartsOfDifferentTypes) {
  auto specs = parts();
  specs[1].dtype = DType::bf16;
  EXPECT_FALSE(join_fused(phi3(), specs).ok());
}

TEST(FusedTensors, RefusesPackedCodes) {
  const std::vector<TensorSpec> specs{{block + "mlp.gate_proj.qweight", DType::i32, {4, 3}}};
  EXPECT_EQ(join_fused(phi3(), specs).error().message(),
            "tensor 'model.layers.0.mlp.gate_proj.qweight': model type 'phi3' stores it as a part of "
            "'mlp.gate_up_proj', which only plain weights can be");
}

}  // namespace
}  // namespace fettle::kit
