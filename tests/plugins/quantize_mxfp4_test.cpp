// SPDX-License-Identifier: Apache-2.0
#include "plugins/floats.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>

namespace fettle::test {
namespace {

using namespace fettle::kit;

const std::string down = "model.layers.1.mlp.down_proj";

Step mxfp4() { return float_step("quantize.mxfp4"); }

class Mxfp4Scales : public ::testing::TestWithParam<const char*> {};

TEST_P(Mxfp4Scales, ReadBackAsTheGridsValuesForAnyThreadCount) {
  const StepResult r = mxfp4().param("scales", GetParam()).threads(1).run();
  const StepResult many = mxfp4().param("scales", GetParam()).threads(5).run();
  ASSERT_TRUE(r.ok() && many.ok()) << r.message << many.message;
  const auto written = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(written.ok()) << written.error().message();
  FloatScheme s;
  s.kind = FloatKind::mxfp4;
  s.power_scale = *find_power_scale(GetParam());
  EXPECT_EQ(values_in(*written, down + ".weight"), rounded(down + ".weight", s, {}));
  EXPECT_EQ(file_bytes(r.outputs.at("model") + "/model.safetensors"),
            file_bytes(many.outputs.at("model") + "/model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Rows, Mxfp4Scales, ::testing::Values("floor", "nearest", "search"),
                         [](const auto& row) { return row.param; });

TEST(QuantizeMxfp4, ErrsLeastThroughTheSearch) {
  const double search = mxfp4().param("scales", "search").run().value("weight_error");
  EXPECT_LT(search, mxfp4().param("scales", "floor").run().value("weight_error"));
  EXPECT_LT(search, mxfp4().param("scales", "nearest").run().value("weight_error"));
}

TEST(QuantizeMxfp4, TellsClientsInTheConfig) {
  const StepResult r = mxfp4().param("activations", "dynamic").run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const Json& config = written->config()["quantization_config"];
  EXPECT_EQ(config["format"], "mxfp4-pack-quantized");
  EXPECT_EQ(config["config_groups"]["group_0"]["weights"].dump(),
            R"({"num_bits":4,"type":"float","symmetric":true,"strategy":"group","group_size":32,)"
            R"("scale_dtype":"torch.uint8","zp_dtype":"torch.uint8","dynamic":false})");
  EXPECT_EQ(config["config_groups"]["group_0"]["input_activations"].dump(),
            R"({"num_bits":4,"type":"float","symmetric":true,"strategy":"group","group_size":32,"dynamic":true,)"
            R"("scale_dtype":"torch.uint8","zp_dtype":"torch.uint8"})");
}

TEST(QuantizeMxfp4, RefusesRowsThatBlocksDoNotDivide) {
  const StepResult r =
      Step("quantize_mxfp4", "quantize.mxfp4").input("model", "model", small_model(48), {{"layout", "hf"}}).run();
  EXPECT_EQ(r.message,
            "tensor 'model.layers.0.mlp.down_proj.weight' has shape [32, 48], but MXFP4 has blocks of 32 weights of a "
            "row; use quantize.fp8 for it, or put it into 'ignore'");
}

}  // namespace
}  // namespace fettle::test
