// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/model_attributes.h"

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"

#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fettle::kit {
namespace {

using test::ScratchFolder;
using ::testing::Contains;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

Status zeros(const TensorSpec& spec, const TensorSink& sink) {
  return sink(std::vector<std::byte>(
      bytes_of(spec.dtype, static_cast<std::uint64_t>(spec.shape[0]) *
                               static_cast<std::uint64_t>(spec.shape.size() > 1 ? spec.shape[1] : 1))));
}

/// The attributes of a checkpoint with that config and those tensors.
Result<ModelAttributes> attributes_of(std::string_view config, std::vector<TensorSpec> specs,
                                      std::map<std::string, std::string> metadata = {}) {
  const ScratchFolder folder;
  CheckpointWriterOptions options;
  options.metadata = std::move(metadata);
  FETTLE_ASSIGN(const Json json, parse_json(config, "config.json"));
  const Status written = write_checkpoint(folder.path(), json, std::move(specs), zeros, "", options);
  if (!written) return written;
  return model_attributes(folder.path());
}

const std::vector<TensorSpec> kSpecs = {{"model.embed_tokens.weight", DType::bf16, {8, 4}},
                                        {"model.norm.weight", DType::f32, {4}}};

TEST(ModelAttributes, OfACheckpoint) {
  const auto attributes =
      attributes_of(R"({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 4, "intermediate_size": 16,
                            "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 32})",
                    kSpecs, {{"fettle.sparsity", "2:4"}});
  ASSERT_TRUE(attributes) << attributes.error().message();
  EXPECT_EQ(*attributes, (ModelAttributes{{"layout", "hf"},
                                          {"architecture", "llama"},
                                          {"weights", "bf16"},
                                          {"parameters", "36"},
                                          {"bytes", "80"},
                                          {"layers", "2"},
                                          {"hidden", "4"},
                                          {"ffn", "16"},
                                          {"heads", "2"},
                                          {"kv_heads", "2"},
                                          {"vocab", "8"},
                                          {"context", "32"},
                                          {"tied", "true"},
                                          {"sparsity", "2:4"}}));
}

TEST(ModelAttributes, LeaveOutWhatTheModelDoesNotTell) {
  const auto attributes = attributes_of("{}", {});
  ASSERT_TRUE(attributes) << attributes.error().message();
  EXPECT_EQ(*attributes, (ModelAttributes{{"layout", "hf"}, {"parameters", "0"}, {"bytes", "0"}, {"tied", "true"}}));
}

TEST(ModelAttributes, NameTheSchemeOfQuantizedCheckpoints) {
  const auto scheme = [](const std::string& quantization) {
    const auto attributes = attributes_of(R"({"quantization_config": )" + quantization + "}", kSpecs);
    EXPECT_THAT(*attributes, Not(Contains(Key("parameters"))));
    return std::find_if(attributes->begin(), attributes->end(), [](const auto& a) { return a.first == "weights"; })
        ->second;
  };
  EXPECT_EQ(scheme(R"({"quant_method": "gptq", "bits": 4})"), "gptq.int4");
  EXPECT_EQ(scheme(R"({"quant_method": "compressed-tensors", "format": "float-quantized"})"),
            "compressed-tensors.float-quantized");
  EXPECT_EQ(scheme(R"({"quant_method": "fp8"})"), "fp8");
  EXPECT_EQ(scheme(R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})"), "modelopt.NVFP4");
}

TEST(ModelAttributes, SayMixedAndUntied) {
  const auto attributes =
      attributes_of(R"({"tie_word_embeddings": false})",
                    {{"model.embed_tokens.weight", DType::bf16, {8, 4}}, {"lm_head.weight", DType::f16, {8, 4}}});
  EXPECT_THAT(*attributes, Contains(Pair("weights", "mixed")));
  EXPECT_THAT(*attributes, Contains(Pair("tied", "false")));
}

TEST(ModelAttributes, LookIntoTheLanguagePartOfTheConfig) {
  const auto attributes = attributes_of(R"({"model_type": "gemma3", "text_config": {"hidden_size": 640}})", kSpecs);
  EXPECT_THAT(*attributes, Contains(Pair("architecture", "gemma3")));
  EXPECT_THAT(*attributes, Contains(Pair("hidden", "640")));
}

Status write_gguf(const std::string& path, const GgufMetadata& metadata, const std::vector<TensorSpec>& specs) {
  FETTLE_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata, specs));
  for (const TensorSpec& spec : specs)
    FETTLE_TRY(zeros(spec, [&](std::span<const std::byte> bytes) { return writer.append(spec.name, bytes); }));
  return writer.finish();
}

GgufMetadata gguf_metadata() {  // as a constant, GCC 12 tries to compute it while compiling and runs out of memory
  return {{"general.architecture", std::string("llama")},
          {"llama.block_count", 2u},
          {"llama.context_length", 64u},
          {"llama.embedding_length", 256u},
          {"llama.feed_forward_length", std::vector<std::int32_t>{512, 512}},
          {"llama.attention.head_count", 4u},
          {"llama.attention.head_count_kv", std::vector<std::int32_t>{1, 2}},
          {"general.file_type", 15u},
          {"tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"}}};
}

const std::vector<TensorSpec> kGgufSpecs = {{"output.weight", DType::q6_k, {2, 256}},
                                            {"output_norm.weight", DType::f32, {256}}};
const ModelAttributes kGgufAttributes = {{"layout", "gguf"},
                                         {"architecture", "llama"},
                                         {"weights", "gguf.Q4_K_M"},
                                         {"parameters", "768"},
                                         {"bytes", "1444"},
                                         {"layers", "2"},
                                         {"hidden", "256"},
                                         {"ffn", "512"},
                                         {"heads", "4"},
                                         {"vocab", "2"},
                                         {"context", "64"},
                                         {"tied", "false"}};

TEST(ModelAttributes, OfAGgufFileAndOfItsFolder) {
  const ScratchFolder folder;
  ASSERT_TRUE(write_gguf(folder / "m.gguf", gguf_metadata(), kGgufSpecs));
  for (const std::string& path : {folder / "m.gguf", folder.path()}) {
    const auto attributes = model_attributes(path);
    ASSERT_TRUE(attributes) << attributes.error().message();
    EXPECT_EQ(*attributes, kGgufAttributes);
  }
}

TEST(ModelAttributes, OfAGgufModelInParts) {
  const ScratchFolder folder;
  ASSERT_TRUE(write_gguf(folder / "m-00001-of-00002.gguf", gguf_metadata(), {kGgufSpecs[1]}));
  EXPECT_EQ(model_attributes(folder.path()).error().message(),
            folder / "m-00002-of-00002.gguf: this part of a model in 2 files is missing; is the download complete?");
  ASSERT_TRUE(write_gguf(folder / "m-00002-of-00002.gguf", {}, {kGgufSpecs[0]}));
  for (const std::string& path : {folder.path(), folder / "m-00002-of-00002.gguf"}) {
    const auto attributes = model_attributes(path);
    ASSERT_TRUE(attributes) << attributes.error().message();
    EXPECT_EQ(*attributes, kGgufAttributes);
  }
}

TEST(ModelAttributes, SayWhatIsWrongWithThePath) {
  const ScratchFolder folder;
  const auto message = [](const std::string& path) { return model_attributes(path).error().message(); };
  EXPECT_EQ(message(folder / "none"), folder / "none: no such file or folder");
  EXPECT_EQ(message(folder.path()), folder.path() +
                                        ": holds neither 'config.json' nor a GGUF file, expected a Hugging Face "
                                        "checkpoint or a GGUF model");
  folder.write("a.gguf", "");
  folder.write("b.gguf", "");
  EXPECT_EQ(message(folder.path()),
            folder.path() + ": holds several GGUF models, 'a.gguf' and 'b.gguf' among them; name the file");
}

TEST(ModelAttributes, OfRealModels) {
  const std::string models = FETTLE_TEST_SHARED "/models/";
  if (!std::filesystem::exists(models)) GTEST_SKIP() << "needs the models in " << models;
  const auto small = model_attributes(models + "prose-3m");
  ASSERT_TRUE(small) << small.error().message();
  EXPECT_EQ(*small, (ModelAttributes{{"layout", "hf"},
                                     {"architecture", "llama"},
                                     {"weights", "bf16"},
                                     {"parameters", "3410176"},
                                     {"bytes", "6820352"},
                                     {"layers", "4"},
                                     {"hidden", "256"},
                                     {"ffn", "768"},
                                     {"heads", "4"},
                                     {"kv_heads", "2"},
                                     {"vocab", "1024"},
                                     {"context", "512"},
                                     {"tied", "true"}}));
  const auto sharded = model_attributes(models + "prose-34m");
  ASSERT_TRUE(sharded) << sharded.error().message();
  EXPECT_THAT(*sharded, Contains(Pair("parameters", "33563136")));
  EXPECT_THAT(*sharded, Contains(Pair("tied", "false")));
  for (const char* other : {"babyllama-105", "babyllama-105-bf16-sharded", "stories260K"})
    EXPECT_TRUE(model_attributes(models + other)) << other;
}

TEST(ModelAttributes, OfASafetensorsFileAskForItsFolder) {
  EXPECT_EQ(model_attributes("base/model.safetensors").error().message(),
            "base/model.safetensors: is weights alone; name the folder of the Hugging Face checkpoint it belongs to");
}

}  // namespace
}  // namespace fettle::kit
