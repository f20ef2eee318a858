// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/mapped_file.h"

#include "unit/kit/io/scratch_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

namespace fettle::kit {
namespace {

TEST(MappedFile, ShowsTheBytesOfTheFile) {
  const test::ScratchFolder scratch;
  const auto file = MappedFile::open(scratch.write("a", "hello"));
  ASSERT_TRUE(file);
  ASSERT_EQ(file->bytes().size(), 5u);
  EXPECT_EQ(static_cast<char>(file->bytes()[4]), 'o');
  EXPECT_EQ(file->path(), scratch / "a");
}

TEST(MappedFile, AnEmptyFileHasNoBytes) {
  const test::ScratchFolder scratch;
  const auto file = MappedFile::open(scratch.write("a", ""));
  ASSERT_TRUE(file);
  EXPECT_TRUE(file->bytes().empty());
}

TEST(MappedFile, BytesStayWhereTheyAreWhenTheObjectMoves) {
  const test::ScratchFolder scratch;
  auto file = MappedFile::open(scratch.write("a", "hello"));
  ASSERT_TRUE(file);
  const std::byte* data = file->bytes().data();
  const MappedFile moved = std::move(*file);
  EXPECT_EQ(moved.bytes().data(), data);
}

TEST(MappedFile, DroppedPagesCanBeReadAgain) {
  const test::ScratchFolder scratch;
  const auto file = MappedFile::open(scratch.write("a", std::string(100'000, 'x')));
  ASSERT_TRUE(file);
  file->drop(5'000, 50'000);
  file->drop(99'999, 1'000'000);
  file->drop(100'000, 1);
  EXPECT_TRUE(std::all_of(file->bytes().begin(), file->bytes().end(), [](std::byte b) { return b == std::byte{'x'}; }));
}

TEST(MappedFile, DropsViewsOfItsOwnBytesOnly) {
  const test::ScratchFolder scratch;
  const auto file = MappedFile::open(scratch.write("a", std::string(100'000, 'x')));
  const auto other = MappedFile::open(scratch.write("b", std::string(100'000, 'y')));
  ASSERT_TRUE(file && other);
  EXPECT_TRUE(file->drop(file->bytes().subspan(7'000, 80'000)));
  EXPECT_FALSE(file->drop(other->bytes()));
  EXPECT_FALSE(file->drop(file->bytes().last(0)));
  EXPECT_EQ(file->bytes()[50'000], std::byte{'x'});
}

TEST(MappedFile, SaysWhatIsWrongWithThePath) {
  const test::ScratchFolder scratch;
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  const auto message = [](const std::string& path) { return MappedFile::open(path).error().message(); };
  EXPECT_EQ(message(scratch / "none"), scratch / "none: no such file");
  EXPECT_EQ(message(scratch.path()), scratch.path() + ": is a folder, expected a file");
  EXPECT_EQ(message(scratch / "pipe"), scratch / "pipe: is a device or a pipe, expected a file");
}

}  // namespace
}  // namespace fettle::kit
