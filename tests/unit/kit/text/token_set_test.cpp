// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/token_set.h"

#include "fettle_kit/io/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

namespace fs = std::filesystem;

class InFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder = ::testing::TempDir() + "fettle_text_" + std::to_string(::getpid()) + "_" +
             ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::create_directories(folder);
  }
  void TearDown() override { fs::remove_all(folder); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(folder + "/" + name).parent_path());
    std::ofstream(folder + "/" + name, std::ios::binary) << text;
  }
  std::string folder;
};

class TokenSetFile : public InFolder {
 protected:
  std::string message() const {
    const auto set = TokenSet::open(folder);
    return set.ok() ? "" : set.error().message().substr(folder.size() + 1);
  }
  void write_ids(const char* name, DType dtype, std::vector<std::int64_t> shape, std::vector<std::int32_t> ids,
                 std::map<std::string, std::string> metadata) const {
    auto writer = SafetensorsWriter::create(folder + "/tokens.safetensors", {{name, dtype, shape}}, metadata);
    ASSERT_TRUE(writer.ok()) << writer.error().message();
    ASSERT_TRUE(writer->append(name, std::as_bytes(std::span(ids))).ok());
    ASSERT_TRUE(writer->finish().ok());
  }
};

TEST_F(TokenSetFile, ComesBackAsSaved) {
  const TokenSet saved({1, 2, 3, 4, 5, 6}, 3, "sha256:t", true);
  ASSERT_TRUE(saved.save(folder).ok());
  const auto read = TokenSet::open(folder);
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->sequences(), 2);
  EXPECT_EQ(read->length(), 3);
  EXPECT_EQ(read->tokenizer_digest(), "sha256:t");
  EXPECT_TRUE(read->bos());
  EXPECT_EQ(std::vector<std::int32_t>(read->sequence(1).begin(), read->sequence(1).end()),
            (std::vector<std::int32_t>{4, 5, 6}));
}

TEST_F(TokenSetFile, RefusesAnotherKindOfFile) {
  write_ids("x", DType::i32, {1, 1}, {1}, {});
  EXPECT_EQ(message(), "tokens.safetensors: tensor 'ids' is missing; is this folder a 'tokens' artifact?");
}

TEST_F(TokenSetFile, RefusesAnotherTypeOrShape) {
  write_ids("ids", DType::u32, {1, 1}, {1}, {});
  EXPECT_EQ(message(), "tokens.safetensors: tensor 'ids' is not a matrix of i32 with at least one column");
  write_ids("ids", DType::i32, {2}, {1, 2}, {});
  EXPECT_EQ(message(), "tokens.safetensors: tensor 'ids' is not a matrix of i32 with at least one column");
}

TEST_F(TokenSetFile, RefusesIdsWithoutATokenizer) {
  write_ids("ids", DType::i32, {1, 1}, {1}, {});
  EXPECT_EQ(message(), "tokens.safetensors: the metadata does not say which tokenizer made the ids");
}

TEST_F(TokenSetFile, RefusesNegativeIds) {
  write_ids("ids", DType::i32, {1, 2}, {1, -2}, {{"tokenizer", "t"}});
  EXPECT_EQ(message(), "tokens.safetensors: tensor 'ids' holds -2, expected ids from 0");
}

class ReadText : public InFolder {
 protected:
  std::string message(const std::string& path) const {
    const auto text = read_text(path);
    return text.ok() ? "" : text.error().message().substr(folder.size() + 1);
  }
};

TEST_F(ReadText, TakesFilesInTheOrderOfTheirNames) {
  write("b.txt", "second");
  write("a.md", "first\n");
  write("c/d.txt", "third");
  write(".hidden", "never");
  fs::create_symlink(folder + "/b.txt", folder + "/z");
  EXPECT_EQ(*read_text(folder), "first\nsecond\nthird\nsecond");
  EXPECT_EQ(*read_text(folder + "/b.txt"), "second");
}

TEST_F(ReadText, TakesTheTextFieldsOfJsonLines) {
  write("a.jsonl", "{\"text\": \"one\"}\n\n{\"id\": 2, \"text\": \"two\\n\"}\r\n{\"text\": \"three\"}");
  EXPECT_EQ(*read_text(folder), "one\n\ntwo\n\nthree");
}

TEST_F(ReadText, NamesTheLineOfABadRecord) {
  write("a.jsonl", "{\"text\": \"one\"}\n{\"txt\": \"two\"}\n");
  EXPECT_EQ(message(folder), "a.jsonl: record in line 2 has no string \"text\"");
  write("a.jsonl", "{\"text\": 1}\n");
  EXPECT_EQ(message(folder), "a.jsonl: record in line 1 has no string \"text\"");
}

TEST_F(ReadText, RefusesCompressedFilesWithTheRemedy) {
  write("a.txt.xz", "");
  EXPECT_EQ(message(folder), "a.txt.xz: is compressed; unpack it first, for example with 'xz -dk'");
}

TEST_F(ReadText, EndsOnLinksThatLeadRoundInCircles) {
  fs::create_directory_symlink(folder, folder + "/loop");
  const auto text = read_text(folder);
  ASSERT_FALSE(text.ok());
  EXPECT_NE(text.error().message().find("folders are nested deeper than 16 levels"), std::string::npos);
}

}  // namespace
}  // namespace fettle::kit
