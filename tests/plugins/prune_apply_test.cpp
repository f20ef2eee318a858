// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"

#include "plugins/harness.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>

namespace fettle::test {
namespace {

using namespace fettle::kit;

const StepResult& by_magnitude() {
  static const StepResult result = Step("prune_magnitude", "prune.magnitude")
                                       .input("model", "model", prose_model(), {{"layout", "hf"}})
                                       .param("share", 0.5)
                                       .run();
  return result;
}

Step prune_apply(const std::string& model, const std::string& mask) {
  return Step("prune_apply", "prune.apply")
      .input("model", "model", model, {{"layout", "hf"}})
      .input("mask", "mask", mask);
}

TEST(PruneApply, GivesTheModelThatTheMaskCameFrom) {
  const StepResult r = prune_apply(prose_model(), by_magnitude().outputs.at("mask")).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(file_bytes(r.outputs.at("model") + "/model.safetensors"),
            file_bytes(by_magnitude().outputs.at("model") + "/model.safetensors"));
  EXPECT_EQ(r.value("sparsity"), 0.5);
}

TEST(PruneApply, ChangesNothingTheSecondTime) {
  const StepResult r = prune_apply(by_magnitude().outputs.at("model"), by_magnitude().outputs.at("mask")).run();
  ASSERT_TRUE(r.ok()) << r.message;
  EXPECT_EQ(r.value("changed"), 0);
}

TEST(PruneApply, RefusesAMaskOfATensorThatTheModelLacks) {
  const std::string folder = temporary_folder();
  auto writer = MaskWriter::create(folder, {{"model.layers.9.mlp.up_proj.weight", 8, 8}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->add("model.layers.9.mlp.up_proj.weight", Mask(8, 8)).ok());
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_EQ(prune_apply(prose_model(), folder).run().message,
            "the mask has 'model.layers.9.mlp.up_proj.weight', which the model does not have; the mask was made for "
            "another model");
}

TEST(PruneApply, RefusesAMaskOfAnotherShape) {
  const std::string folder = temporary_folder();
  auto writer = MaskWriter::create(folder, {{"model.layers.1.mlp.up_proj.weight", 8, 8}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->add("model.layers.1.mlp.up_proj.weight", Mask(8, 8)).ok());
  ASSERT_TRUE(writer->finish().ok());
  const StepResult r = prune_apply(prose_model(), folder).run();
  EXPECT_EQ(r.message,
            "the mask of 'model.layers.1.mlp.up_proj.weight' is [8, 8], but the model's tensor is [768, 256]; the mask "
            "was made for another model");
  EXPECT_EQ(r.where, "mask");
}

TEST(PruneApply, RefusesAQuantizedModel) {
  const StepResult quantized =
      Step("quantize_rtn", "quantize.rtn").input("model", "model", prose_model(), {{"layout", "hf"}}).run();
  ASSERT_TRUE(quantized.ok()) << quantized.message;
  EXPECT_EQ(prune_apply(quantized.outputs.at("model"), by_magnitude().outputs.at("mask")).run().message,
            "the weights are quantized already, and packed codes cannot be pruned; prune the original checkpoint, then "
            "quantize the result");
}

}  // namespace
}  // namespace fettle::test
