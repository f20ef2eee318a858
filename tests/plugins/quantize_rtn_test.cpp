// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/compress/grid.h"

#include "plugins/harness.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace fettle::test {
namespace {

using namespace fettle::kit;

constexpr const char* q = "model.layers.2.self_attn.q_proj.weight";
constexpr const char* down = "model.layers.1.mlp.down_proj.weight";

Step rtn() { return Step("quantize_rtn", "quantize.rtn").input("model", "model", prose_model(), {{"layout", "hf"}}); }

std::vector<float> dense(const DenseCheckpoint& model, const char* name) {
  const DenseTensor& t = *model.find(name);
  std::vector<float> values(static_cast<std::size_t>(t.shape[0] * t.shape[1]));
  DenseCheckpoint::read(t, 0, MutMatrix(values.data(), t.shape[0], t.shape[1]));
  return values;
}

struct Layout {
  const char* name;
  const char* format;
  int bits;
  bool symmetric;
  const char* sharing;
  int group_size;
};

class RtnLayout : public ::testing::TestWithParam<Layout> {};

/// What the file says when it is read again is what the grid made of the weights, exactly.
TEST_P(RtnLayout, ReadsBackTheGridsValues) {
  const Layout& c = GetParam();
  const StepResult r = rtn()
                           .param("format", c.format)
                           .param("bits", c.bits)
                           .param("symmetric", c.symmetric)
                           .param("sharing", c.sharing)
                           .param("group_size", c.group_size)
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = DenseCheckpoint::open(r.outputs.at("model"));
  ASSERT_TRUE(written.ok()) << written.error().message();
  const auto original = DenseCheckpoint::open(prose_model());
  for (const char* name : {q, down}) {
    ASSERT_NE(written->find(name), nullptr) << name;
    ASSERT_NE(written->find(name)->packed, nullptr);
    const std::vector<float> w = dense(*original, name);
    const auto& shape = original->find(name)->shape;
    GridScheme s;
    s.bits = c.bits;
    s.symmetric = c.symmetric;
    s.sharing = c.sharing == std::string("group")     ? Sharing::group
                : c.sharing == std::string("channel") ? Sharing::channel
                                                      : Sharing::tensor;
    s.group_size = c.group_size;
    s.scale_type = c.format == std::string("compressed-tensors") ? DType::bf16 : DType::f16;
    const CodedMatrix coded = round_to_grid(ConstMatrix(w.data(), shape[0], shape[1]), s);
    std::vector<float> expected(w.size());
    coded.read(0, MutMatrix(expected.data(), shape[0], shape[1]));
    EXPECT_EQ(dense(*written, name), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, RtnLayout,
                         ::testing::Values(Layout{"ct_4_group", "compressed-tensors", 4, true, "group", 128},
                                           Layout{"ct_4_asym", "compressed-tensors", 4, false, "group", 64},
                                           Layout{"ct_2_group", "compressed-tensors", 2, true, "group", 32},
                                           Layout{"ct_8_channel", "compressed-tensors", 8, true, "channel", 128},
                                           Layout{"ct_8_tensor", "compressed-tensors", 8, true, "tensor", 128},
                                           Layout{"gptq_4", "gptq", 4, true, "group", 128},
                                           Layout{"gptq_3", "gptq", 3, true, "group", 128},
                                           Layout{"gptq_2", "gptq", 2, true, "group", 32},
                                           Layout{"gptq_8_channel", "gptq", 8, true, "channel", 128},
                                           Layout{"awq_4", "awq", 4, true, "group", 128},
                                           Layout{"awq_4_asym", "awq", 4, false, "group", 32},
                                           Layout{"awq_4_rows", "awq", 4, false, "channel", 128},
                                           Layout{"gptq_v2_4_asym", "gptq_v2", 4, false, "group", 128},
                                           Layout{"gptq_v2_3_asym", "gptq_v2", 3, false, "group", 64}),
                         [](const auto& row) { return row.param.name; });

TEST(QuantizeRtn, LeavesTheHeadAndWhatItDoesNotTargetAsTheyAre) {
  const StepResult r = rtn().param("ignore", {down}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const auto original = Checkpoint::open(prose_model());
  for (const char* name : {down, "model.embed_tokens.weight", "model.norm.weight"}) {
    const TensorView *a = written->find(name), *b = original->find(name);
    ASSERT_TRUE(a && b) << name;
    EXPECT_TRUE(std::equal(a->bytes.begin(), a->bytes.end(), b->bytes.begin(), b->bytes.end())) << name;
  }
  const auto& ignored = written->config()["quantization_config"]["ignore"];
  EXPECT_EQ(ignored, nlohmann::json({"model.layers.1.mlp.down_proj", "lm_head"}));
  EXPECT_TRUE(std::filesystem::exists(r.outputs.at("model") + "/tokenizer.json"));
}

TEST(QuantizeRtn, TellsMixedPrecisionInTheConfig) {
  const StepResult r = rtn().param("bits_for", {{"*.down_proj.weight", 8}}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const auto& groups = written->config()["quantization_config"]["config_groups"];
  EXPECT_EQ(groups["group_0"]["weights"]["num_bits"], 4);
  EXPECT_EQ(groups["group_0"]["targets"], nlohmann::json({"Linear"}));
  EXPECT_EQ(groups["group_1"]["weights"]["num_bits"], 8);
  EXPECT_EQ(groups["group_1"]["targets"][1], "model.layers.1.mlp.down_proj");
}

TEST(QuantizeRtn, TellsGptqClientsWhatIsDifferentInDynamic) {
  const StepResult r = rtn()
                           .param("format", "gptq")
                           .param("bits_for", {{"*.layers.0.mlp.down_proj.weight", 8}})
                           .param("ignore", {down})
                           .run();
  ASSERT_TRUE(r.ok()) << r.message;
  const auto written = Checkpoint::open(r.outputs.at("model"));
  const auto& config = written->config()["quantization_config"];
  EXPECT_EQ(config["dynamic"].dump(), R"({"+:^model\\.layers\\.0\\.mlp\\.down_proj$":{"bits":8,"group_size":128},)"
                                      R"("-:^model\\.layers\\.1\\.mlp\\.down_proj$":{}})");
  EXPECT_FALSE(config.contains("damp_percent"));  // gptqmodel 7.7 refuses 0
  EXPECT_EQ(*read_json_file(r.outputs.at("model") + "/quantize_config.json"), config);
}

TEST(QuantizeRtn, MoreBitsErrLessByTheExpectedRatio) {
  double last = 0;
  for (const int bits : {4, 3, 2}) {
    const StepResult r = rtn().param("format", "gptq").param("bits", bits).run();
    ASSERT_TRUE(r.ok()) << r.message;
    const double error = r.value("weight_error");
    if (last > 0) {
      EXPECT_GT(error / last, 3.5);
      EXPECT_LT(error / last, 6.5);
    }
    last = error;
  }
}

TEST(QuantizeRtn, WritesTheSameBytesForAnyThreadCount) {
  const StepResult one = rtn().threads(1).param("targets", {"*.v_proj.weight"}).param("search", 2.4).run();
  const StepResult many = rtn().threads(5).param("targets", {"*.v_proj.weight"}).param("search", 2.4).run();
  ASSERT_TRUE(one.ok() && many.ok()) << one.message << many.message;
  EXPECT_EQ(file_bytes(one.outputs.at("model") + "/model.safetensors"),
            file_bytes(many.outputs.at("model") + "/model.safetensors"));
}

TEST(QuantizeRtn, WarnsOfWhatVllmRunsAsOne) {
  const StepResult r = rtn().param("ignore", {"*.layers.0.mlp.up_proj.weight"}).run();
  ASSERT_TRUE(r.ok()) << r.message;
  ASSERT_EQ(r.warnings().size(), 1U);
  EXPECT_EQ(
      r.warnings()[0],
      "model.layers.0: mlp.gate_proj, mlp.up_proj are stored in different ways; transformers loads that, vLLM does "
      "not");
}

struct Refusal {
  const char* name;
  nlohmann::ordered_json params;
  const char* message;
};

class RtnRefusal : public ::testing::TestWithParam<Refusal> {};

TEST_P(RtnRefusal, SaysWhatToDo) {
  Step step = rtn();
  for (const auto& [key, value] : GetParam().params.items()) step.param(key, value);
  const StepResult checked = step.validate();
  EXPECT_EQ((checked.ok() ? step.run() : checked).message, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, RtnRefusal,
    ::testing::Values(
        Refusal{
            "groups_that_do_not_divide",
            {{"group_size", 512}},
            "tensor 'model.layers.0.mlp.down_proj.weight' has rows of 768 weights, which groups of 512 do not divide; "
            "group_size: 256 would fit, or use sharing: channel or put it into 'ignore'"},
        Refusal{
            "groups_that_never_divide",
            {{"group_size", 96}},
            "tensor 'model.layers.0.mlp.gate_proj.weight' has rows of 256 weights, which groups of 96 do not divide; "
            "use sharing: channel or put it into 'ignore'"},
        Refusal{
            "three_bits_compressed",
            {{"bits", 3}},
            "3 bits: releases of compressed-tensors before 0.16 pack them in another way, so clients would disagree; "
            "use 2, 4 or 8, or format: gptq"},
        Refusal{"five_bits_gptq",
                {{"bits_for", {{"*", 5}}}, {"format", "gptq"}},
                "5 bits: gptqmodel 7 and transformers 5 load 2, 3, 4 and 8"},
        Refusal{"whole_matrix_gptq",
                {{"sharing", "tensor"}, {"format", "gptq"}},
                "one scale for a whole matrix cannot be told in GPTQ files; use sharing: channel, or format: "
                "compressed-tensors"},
        Refusal{
            "whole_matrix_asymmetric",
            {{"sharing", "tensor"}, {"symmetric", false}},
            "compressed-tensors 0.18 has no zero point for a whole matrix; use sharing: channel, or symmetric: true"},
        Refusal{
            "asymmetric_v1",
            {{"symmetric", false}, {"format", "gptq"}},
            "version 1 of GPTQ files cannot hold a zero point of 0, and gptqmodel 7 warns of asymmetric ones that it "
            "has not written; use format: gptq_v2 or compressed-tensors"},
        Refusal{"no_match",
                {{"targets", {"*.nothing"}}},
                "no tensor of the model matches 'targets'; its names look like 'model.norm.weight'"},
        Refusal{"norm",
                {{"targets", {"model.norm.weight"}}},
                "tensor 'model.norm.weight' is bf16 [256]; only matrices of f32, f16 or bf16 can be quantized: narrow "
                "'targets' or put it into 'ignore'"},
        Refusal{
            "embedding",
            {{"targets", {"model.embed_tokens.weight"}}},
            "tensor 'model.embed_tokens.weight' is not the weight of a linear layer, which is all that clients load "
            "quantized: narrow 'targets' or put it into 'ignore'"}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace fettle::test
