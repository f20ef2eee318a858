// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/checkpoint_builder.h"

#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fettle::kit {
namespace {

using test::ScratchFolder;
using ::testing::ElementsAre;

const std::vector<TensorSpec> specs = {
    {"a", DType::u8, {3}}, {"b", DType::i64, {2}}, {"empty", DType::f32, {0}}, {"c", DType::u8, {5}}};

std::vector<std::byte> bytes(std::size_t count, int value) { return {count, static_cast<std::byte>(value)}; }

Result<CheckpointBuilder> builder_in(const std::string& folder, std::uint64_t shard_bytes = 1000) {
  CheckpointWriterOptions options;
  options.shard_bytes = shard_bytes;
  return CheckpointBuilder::create(folder, Json::object(), specs, "", options);
}

TEST(CheckpointBuilder, GivesTheSameBytesForAnyOrderOfTensors) {
  const ScratchFolder folder;
  auto one = builder_in(folder / "one"), two = builder_in(folder / "two");
  ASSERT_TRUE(one && two);
  for (const char* name : {"a", "b", "c"})
    ASSERT_TRUE(one->append(name, bytes(*name == 'b' ? 16 : *name == 'a' ? 3 : 5, *name)).ok());
  ASSERT_TRUE(two->append("c", bytes(2, 'c')).ok());  // two under way at a time
  ASSERT_TRUE(two->append("b", bytes(16, 'b')).ok());
  ASSERT_TRUE(two->append("c", bytes(3, 'c')).ok());
  ASSERT_TRUE(two->append("a", bytes(3, 'a')).ok());
  ASSERT_TRUE(one->finish().ok() && two->finish().ok());
  EXPECT_EQ(folder.read("one/model.safetensors"), folder.read("two/model.safetensors"));
  const auto checkpoint = Checkpoint::open(folder / "two");
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_EQ(checkpoint->find("c")->bytes[4], std::byte{'c'});
}

TEST(CheckpointBuilder, FinishesAShardAsSoonAsItIsComplete) {
  const ScratchFolder folder;
  auto builder = builder_in(folder.path(), 16);  // a, b + empty, c
  ASSERT_TRUE(builder);
  ASSERT_TRUE(builder->append("b", bytes(16, 1)).ok());
  EXPECT_THAT(folder.list(), ElementsAre("config.json", "model-00002-of-00003.safetensors"));
}

TEST(CheckpointBuilder, RefusesATensorThatIsNotComplete) {
  const ScratchFolder folder;
  auto builder = builder_in(folder.path());
  ASSERT_TRUE(builder);
  for (const char* name : {"a", "c"}) ASSERT_TRUE(builder->append(name, bytes(3, 1)).ok());
  ASSERT_TRUE(builder->append("b", bytes(16, 1)).ok());
  EXPECT_EQ(builder->finish().message(),
            folder.path() + ": tensor 'c': the checkpoint is to be finished, but only 3 of 5 bytes have come");
}

TEST(CheckpointBuilder, RefusesBytesBeyondATensor) {
  const ScratchFolder folder;
  auto builder = builder_in(folder.path());
  ASSERT_TRUE(builder && builder->append("a", bytes(2, 1)).ok());
  EXPECT_EQ(builder->append("a", bytes(2, 1)).message(),
            folder.path() + ": tensor 'a': 2 bytes after 2, but it has only 3");
  EXPECT_EQ(builder->append("x", bytes(2, 1)).message(), folder.path() + ": tensor 'x': no such tensor was announced");
}

}  // namespace
}  // namespace fettle::kit
