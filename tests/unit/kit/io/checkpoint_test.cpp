// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint.h"

#include "unit/kit/io/safetensors_bytes.h"
#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fettle::kit {
namespace {

using test::safetensors_bytes;
using test::ScratchFolder;
using ::testing::ElementsAre;

constexpr const char* kIndex = "model.safetensors.index.json";

/// A file with tensors of one byte each.
std::string shard(std::initializer_list<const char*> names) {
  std::string header = "{";
  int at = 0;
  for (const char* name : names) {
    header += (at ? ",\"" : "\"") + std::string(name) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" +
              std::to_string(at) + "," + std::to_string(at + 1) + "]}";
    ++at;
  }
  return safetensors_bytes(header + "}", names.size());
}

/// Two shards: a, b in one.safetensors; c in two.safetensors; an index of that weight_map.
void write_sharded(const ScratchFolder& folder, std::string_view weight_map) {
  folder.write("config.json", "{}");
  folder.write("one.safetensors", shard({"a", "b"}));
  folder.write("two.safetensors", shard({"c"}));
  folder.write(kIndex, R"({"metadata":{"total_size":3},"weight_map":)" + std::string(weight_map) + "}");
}

std::vector<std::string> names_of(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorView* tensor : checkpoint.tensors()) names.push_back(tensor->name);
  return names;
}

TEST(Checkpoint, OpensASingleFile) {
  const ScratchFolder folder;
  folder.write("config.json", R"({"model_type":"llama"})");
  folder.write("model.safetensors", shard({"b", "a"}));
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_EQ(checkpoint->config()["model_type"], "llama");
  EXPECT_THAT(names_of(*checkpoint), ElementsAre("b", "a"));
  EXPECT_NE(checkpoint->find("a"), nullptr);
  EXPECT_EQ(checkpoint->require("x").error().message(),
            folder.path() + ": has no tensor 'x'; is its config.json that of these weights?");
  checkpoint->drop(*checkpoint->find("a"));
}

TEST(Checkpoint, OpensShards) {
  const ScratchFolder folder;
  write_sharded(folder, R"({"c":"two.safetensors","a":"one.safetensors","b":"one.safetensors"})");
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_THAT(names_of(*checkpoint), ElementsAre("a", "b", "c"));
  EXPECT_EQ(checkpoint->shards().size(), 2u);
}

struct BadIndexCase {
  const char* name;
  const char* weight_map;
  std::string message;
  Code code = Code::corrupt_data;
};

class BadIndex : public ::testing::TestWithParam<BadIndexCase> {};

TEST_P(BadIndex, IsRefused) {
  const ScratchFolder folder;
  write_sharded(folder, GetParam().weight_map);
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_FALSE(checkpoint);
  EXPECT_EQ(checkpoint.error().message(), folder / kIndex + GetParam().message);
  EXPECT_EQ(checkpoint.error().code(), GetParam().code);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, BadIndex,
    ::testing::Values(
        BadIndexCase{"parent_folder", R"({"a":"../one.safetensors"})",
                     ": tensor 'a': file '../one.safetensors' is not a plain file name in this folder"},
        BadIndexCase{"absolute", R"({"a":"/etc/passwd"})",
                     ": tensor 'a': file '/etc/passwd' is not a plain file name in this folder"},
        BadIndexCase{"subfolder", R"({"a":"x/one.safetensors"})",
                     ": tensor 'a': file 'x/one.safetensors' is not a plain file name in this folder"},
        BadIndexCase{"backslash", R"({"a":"x\\one.safetensors"})",
                     ": tensor 'a': file 'x\\one.safetensors' is not a plain file name in this folder"},
        BadIndexCase{"drive", R"({"a":"C:one.safetensors"})",
                     ": tensor 'a': file 'C:one.safetensors' is not a plain file name in this folder"},
        BadIndexCase{"nul", R"({"a":"one.safetensors\u0000"})",
                     ": tensor 'a': file 'one.safetensors\\x00' is not a plain file name in this folder"},
        BadIndexCase{"empty_name", R"({"a":""})", ": tensor 'a': file '' is not a plain file name in this folder"},
        BadIndexCase{"not_a_string", R"({"a":1})", ": tensor 'a': file is number, expected a string"},
        BadIndexCase{"not_an_object", R"([])", ": has no object 'weight_map'"},
        BadIndexCase{"nothing_named", R"({})", ": 'weight_map' names no tensor"},
        BadIndexCase{"missing_file", R"({"a":"none.safetensors"})",
                     ": names the file 'none.safetensors', which is missing; is the download complete?",
                     Code::not_found},
        BadIndexCase{"missing_tensor",
                     R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors","d":"two.safetensors"})",
                     ": tensor 'd' should be in 'two.safetensors', but is not"},
        BadIndexCase{"wrong_file", R"({"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"})",
                     ": tensor 'b' should be in 'two.safetensors', but is not"},
        BadIndexCase{"tensor_not_named", R"({"a":"one.safetensors","c":"two.safetensors"})",
                     ": does not name tensor 'b', which is in 'one.safetensors'"}),
    [](const auto& test) { return test.param.name; });

TEST(Checkpoint, RefusesATensorInTwoFiles) {
  const ScratchFolder folder;
  write_sharded(folder, R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})");
  folder.write("two.safetensors", shard({"c", "a"}));
  EXPECT_EQ(Checkpoint::open(folder.path()).error().message(),
            folder / kIndex + ": tensor 'a' is in two files, 'one.safetensors' and 'two.safetensors'");
}

TEST(Checkpoint, SaysWhatTheFolderLacks) {
  const ScratchFolder folder;
  const auto message = [&] { return Checkpoint::open(folder.path()).error().message(); };
  EXPECT_EQ(Checkpoint::open(folder / "none").error().message(),
            folder / "none: no such folder, expected the folder of a Hugging Face checkpoint");
  EXPECT_EQ(Checkpoint::open(folder.write("file", "")).error().message(),
            folder / "file: is not a folder, expected the folder of a Hugging Face checkpoint");
  EXPECT_EQ(message(), folder.path() + ": has no 'config.json', expected the folder of a Hugging Face checkpoint");
  folder.write("config.json", "[]");
  EXPECT_EQ(message(), folder / "config.json: is array, expected an object");
  folder.write("config.json", "{}");
  EXPECT_EQ(message(), folder.path() + ": holds neither 'model.safetensors' nor 'model.safetensors.index.json'");
  folder.write("pytorch_model.bin", "");
  EXPECT_EQ(message(), folder.path() + ": the weights are in 'pytorch_model.bin'; convert them to safetensors");
}

/// Bytes that tell where they belong.
Status fill(const TensorSpec& spec, const TensorSink& sink) {
  const auto size = byte_size(spec);
  if (!size) return size.error();
  std::vector<std::byte> bytes(*size, static_cast<std::byte>(spec.name.back()));
  if (Status status = sink(std::span(bytes).first(bytes.size() / 2)); !status) return status;
  return sink(std::span(bytes).subspan(bytes.size() / 2));
}

const std::vector<TensorSpec> kSpecs = {
    {"t1", DType::bf16, {4, 4}}, {"t2", DType::u8, {8}}, {"t3", DType::f32, {2, 2}}, {"t0", DType::bf16, {100}}};

TEST(WriteCheckpoint, OneShardHasNoIndex) {
  const ScratchFolder folder;
  const Json config = {{"model_type", "llama"}};
  ASSERT_TRUE(write_checkpoint(folder / "out", config, kSpecs, fill, ""));
  EXPECT_THAT(folder.list(), ElementsAre("out/", "out/config.json", "out/model.safetensors"));
  const auto checkpoint = Checkpoint::open(folder / "out");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_EQ(checkpoint->config(), config);
  EXPECT_THAT(names_of(*checkpoint), ElementsAre("t3", "t0", "t1", "t2"));
  EXPECT_EQ(checkpoint->find("t1")->bytes[31], std::byte{'1'});
}

TEST(WriteCheckpoint, ShardsKeepTheOrderOfTheTensors) {
  const ScratchFolder folder;
  CheckpointWriterOptions options;
  options.shard_bytes = 56;  // t1 and t2 together are 40 bytes, with t3 56; t0 is larger than a shard
  options.metadata = {{"fettle.note", "x"}};
  ASSERT_TRUE(write_checkpoint(folder.path(), Json::object(), kSpecs, fill, "", options));
  EXPECT_EQ(folder.read(kIndex), R"({
  "metadata": {
    "total_size": 256
  },
  "weight_map": {
    "t0": "model-00002-of-00002.safetensors",
    "t1": "model-00001-of-00002.safetensors",
    "t2": "model-00001-of-00002.safetensors",
    "t3": "model-00001-of-00002.safetensors"
  }
}
)");
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_EQ(checkpoint->shards()[1].metadata().at("fettle.note"), "x");
}

TEST(WriteCheckpoint, CarriesEverythingButWeights) {
  const ScratchFolder folder;
  for (const char* name : {"in/config.json", "in/model.safetensors", "in/pytorch_model.bin", "in/x.gguf", "in/x.onnx",
                           "in/model.safetensors.index.json", "in/original/params.json", "in/.git/HEAD", "in/x.pth"})
    folder.write(name, "no");
  folder.write("in/tokenizer.json", "{ }");
  folder.write("in/unknown.xyz", std::string("\0\xff", 2));
  folder.write("in/sub/config.json", "sub");
  folder.write("blob", "linked");
  std::filesystem::create_symlink("../blob", folder / "in/generation_config.json");
  ASSERT_TRUE(write_checkpoint(folder / "out", Json::object(), kSpecs, fill, folder / "in"));
  std::vector<std::string> written;
  for (const std::string& name : folder.list())
    if (name.starts_with("out/")) written.push_back(name.substr(4));
  EXPECT_THAT(written, ElementsAre("", "config.json", "generation_config.json", "model.safetensors", "sub/",
                                   "sub/config.json", "tokenizer.json", "unknown.xyz"));
  EXPECT_EQ(folder.read("out/config.json"), "{}\n");
  EXPECT_EQ(folder.read("out/generation_config.json"), "linked");
  EXPECT_FALSE(std::filesystem::is_symlink(folder / "out/generation_config.json"));
  EXPECT_EQ(folder.read("out/unknown.xyz"), std::string("\0\xff", 2));
}

TEST(WriteCheckpoint, RefusesLinksToFolders) {
  const ScratchFolder folder;
  std::filesystem::create_directory(folder / "in");
  std::filesystem::create_directory_symlink("/", folder / "in/root");
  EXPECT_EQ(write_checkpoint(folder / "out", Json::object(), kSpecs, fill, folder / "in").message(),
            folder / "in/root: is a link to a folder, which cannot be carried over; replace it by the folder itself");
}

TEST(WriteCheckpoint, RefusesAFolderThatHoldsWeights) {
  const ScratchFolder folder;
  folder.write("model.safetensors", "");
  EXPECT_EQ(write_checkpoint(folder.path(), Json::object(), kSpecs, fill, "").message(),
            folder.path() + ": already holds 'model.safetensors'; write into another folder");
}

TEST(WriteCheckpoint, RefusesTheSameTensorTwice) {
  const ScratchFolder folder;
  EXPECT_EQ(write_checkpoint(folder.path(), Json::object(), {kSpecs[0], kSpecs[0]}, fill, "").message(),
            folder.path() + ": tensor 't1' is to be written twice");
}

TEST(WriteCheckpoint, AFailedSourceLeavesNoWeights) {
  const ScratchFolder folder;
  const auto fail = [](const TensorSpec& spec, const TensorSink& sink) {
    return spec.name == "t0" ? Status(Code::cancelled, "stopped") : fill(spec, sink);
  };
  const Status status = write_checkpoint(folder.path(), Json::object(), kSpecs, fail, "");
  EXPECT_EQ(status.message(), "stopped");
  EXPECT_THAT(folder.list(), ElementsAre("config.json"));
}

TEST(WriteCheckpoint, CopiesARealModelExactly) {
  const std::string model = FETTLE_TEST_SHARED "/models/babyllama-105-bf16-sharded";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "needs the model " << model;
  const auto source = Checkpoint::open(model);
  ASSERT_TRUE(source) << source.error().message();
  std::vector<TensorSpec> specs;
  for (const TensorView* tensor : source->tensors()) specs.push_back({tensor->name, tensor->dtype, tensor->shape});
  const auto copy = [&](const TensorSpec& spec, const TensorSink& sink) {
    return sink(source->find(spec.name)->bytes);
  };
  const ScratchFolder folder;
  CheckpointWriterOptions options;
  options.shard_bytes = 700'000;
  ASSERT_TRUE(write_checkpoint(folder.path(), source->config(), specs, copy, model, options));
  const auto target = Checkpoint::open(folder.path());
  ASSERT_TRUE(target) << target.error().message();
  ASSERT_EQ(target->tensors().size(), source->tensors().size());
  for (const TensorView* tensor : source->tensors())
    EXPECT_TRUE(std::ranges::equal(target->find(tensor->name)->bytes, tensor->bytes)) << tensor->name;
}

}  // namespace
}  // namespace fettle::kit
