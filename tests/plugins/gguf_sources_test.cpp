// SPDX-License-Identifier: Apache-2.0
// quantize.gguf straight from checkpoints whose weights are not plain matrices, each its own: packed ones, fused ones.
#include "fettle_kit/compress/dense_checkpoint.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"

#include "plugins/harness.h"
#include "plugins/prose.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace fettle::test {
namespace {

using namespace fettle::kit;

StepResult to_gguf(const std::string& model, const char* type, unsigned threads = 2) {
  return Step("quantize_gguf", "quantize.gguf")
      .input("model", "model", model, {{"layout", "hf"}})
      .param("type", type)
      .threads(threads)
      .run();
}

std::string gguf_of(const std::string& model, const char* type, unsigned threads = 2) {
  const StepResult r = to_gguf(model, type, threads);
  EXPECT_TRUE(r.ok()) << r.message;
  return r.ok() ? r.outputs.at("model") + "/model.gguf" : "";
}

std::string as_floats(const std::string& model) {
  const StepResult r = Step("io_convert", "io.convert").input("model", "model", model).param("to", "f32").run();
  EXPECT_TRUE(r.ok()) << r.message;
  return r.ok() ? r.outputs.at("model") : "";
}

std::string quantized(const std::string& technique, const nlohmann::ordered_json& params) {
  std::string plugin = technique;
  std::replace(plugin.begin(), plugin.end(), '.', '_');
  Step step(plugin, technique);
  step.input("model", "model", prose_model(), {{"layout", "hf"}});
  for (const auto& [name, value] : params.items()) step.param(name, value);
  const StepResult r = step.run();
  EXPECT_TRUE(r.ok()) << r.message;
  return r.ok() ? r.outputs.at("model") : "";
}

/// The trained model as DeepSeek stores FP8: what compressed-tensors has, under other names.
std::string deepseek(const std::string& sharing) {
  const std::string source = quantized("quantize.fp8", {{"sharing", sharing}});
  const auto packed = Checkpoint::open(source);
  Json config = packed->config();
  config["quantization_config"] = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"}};
  const std::string scale = sharing == "block" ? ".weight_scale_inv" : ".weight_scale";
  if (sharing == "block") config["quantization_config"]["weight_block_size"] = {128, 128};
  std::vector<TensorSpec> specs;
  std::map<std::string, const TensorView*> views;
  for (const TensorView* t : packed->tensors()) {
    std::string name = t->name;
    if (name.ends_with(".weight_scale")) name = name.substr(0, name.rfind('.')) + scale;
    specs.push_back({name, t->dtype, t->shape});
    views[name] = t;
  }
  const std::string folder = temporary_folder();
  const Status written = write_checkpoint(
      folder, config, specs,
      [&](const TensorSpec& spec, const TensorSink& sink) { return sink(views.at(spec.name)->bytes); }, source);
  EXPECT_TRUE(written.ok()) << written.message();
  return folder;
}

struct Packed {
  const char* name;
  std::string (*make)();
};

class PackedSource : public ::testing::TestWithParam<Packed> {};

TEST_P(PackedSource, GivesTheBytesOfItsFloats) {
  const std::string packed = GetParam().make(), plain = as_floats(packed);
  for (const char* type : {"F32", "Q4_K_M"}) {
    const std::string direct = gguf_of(packed, type);
    EXPECT_EQ(file_bytes(direct), file_bytes(gguf_of(plain, type))) << type;
    EXPECT_EQ(file_bytes(direct), file_bytes(gguf_of(packed, type, 5))) << type;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, PackedSource,
    ::testing::Values(Packed{"deepseek", [] { return deepseek("block"); }},
                      Packed{"fp8_rows", [] { return deepseek("channel"); }},
                      Packed{"fp8_tensor",
                             [] {
                               return quantized("quantize.fp8", {{"sharing", "tensor"}});
                             }},
                      Packed{"fp8_channel",
                             [] {
                               return quantized("quantize.fp8", {{"sharing", "channel"}});
                             }},
                      Packed{"fp8_block",
                             [] {
                               return quantized("quantize.fp8", {{"sharing", "block"}});
                             }},
                      Packed{"int4",
                             [] {
                               return quantized("quantize.rtn", {{"bits", 4}, {"group_size", 64}});
                             }},
                      Packed{"int8",
                             [] {
                               return quantized("quantize.int8", {{"smooth", "none"}});
                             }},
                      Packed{"gptq",
                             [] {
                               return quantized("quantize.rtn", {{"bits", 3}, {"format", "gptq"}});
                             }},
                      Packed{"awq",
                             [] {
                               return quantized("quantize.rtn", {{"bits", 4}, {"format", "awq"}, {"symmetric", false}});
                             }},
                      Packed{"nvfp4", [] { return quantized("quantize.nvfp4", {}); }},
                      Packed{"mxfp4", [] { return quantized("quantize.mxfp4", {}); }},
                      Packed{"modelopt",
                             [] {
                               return quantized("quantize.nvfp4", {{"format", "modelopt"}});
                             }}),
    [](const auto& row) { return std::string(row.param.name); });

TEST(GgufSources, SizesTypesByTheValuesOfPackedWeights) {
  const std::string packed = quantized("quantize.rtn", {{"bits", 4}}), plain = as_floats(packed);
  const auto sized = [](const std::string& model) {
    const StepResult r = Step("quantize_gguf", "quantize.gguf")
                             .input("model", "model", model, {{"layout", "hf"}})
                             .param("target", "5bpw")
                             .run();
    EXPECT_TRUE(r.ok()) << r.message;
    return file_bytes(r.outputs.at("model") + "/model.gguf");
  };
  EXPECT_EQ(sized(packed), sized(plain));
}

TEST(GgufSources, RefusesAFormThatItCannotRead) {
  const std::string source = quantized("quantize.rtn", {{"bits", 4}}), file = source + "/config.json";
  Json config = *read_json_file(file);
  config["quantization_config"]["quant_method"] = "hqq";
  ASSERT_TRUE(write_json_file(file, config).ok());
  const StepResult r = to_gguf(source, "Q8_0");
  EXPECT_EQ(r.code, FETTLE_UNSUPPORTED);
  EXPECT_EQ(r.message, source +
                           "/config.json: quant_method 'hqq' cannot be read; known are gptq, awq, "
                           "compressed-tensors, modelopt, fp8, sparse24");
}

TEST(GgufSources, RefusesBytesThatNoConfigExplains) {
  const std::string source = deepseek("channel"), file = source + "/config.json";
  Json config = *read_json_file(file);
  config.erase("quantization_config");
  ASSERT_TRUE(write_json_file(file, config).ok());
  const StepResult r = to_gguf(source, "Q8_0");
  EXPECT_EQ(r.code, FETTLE_UNSUPPORTED);
  EXPECT_EQ(r.message,
            "tensor 'model.layers.0.mlp.down_proj.weight_scale' has no name in a GGUF file of architecture "
            "'llama'");
}

}  // namespace
}  // namespace fettle::test
