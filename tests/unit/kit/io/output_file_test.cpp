// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/output_file.h"

#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace fettle::kit {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(OutputFile, AppearsOnlyOnCommit) {
  const test::ScratchFolder scratch;
  auto file = OutputFile::create(scratch / "a");
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->write("hello"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "a"));
  ASSERT_TRUE(file->commit());
  EXPECT_THAT(scratch.list(), ElementsAre("a"));
  EXPECT_EQ(scratch.read("a"), "hello");
}

TEST(OutputFile, LeavesNothingBehindWithoutCommit) {
  const test::ScratchFolder scratch;
  {
    auto file = OutputFile::create(scratch / "a");
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->write("hello"));
    OutputFile moved = std::move(*file);
    EXPECT_EQ(scratch.list().size(), 1u);
  }
  EXPECT_THAT(scratch.list(), IsEmpty());
}

TEST(OutputFile, ReplacesAnOlderFileOfThatName) {
  const test::ScratchFolder scratch;
  scratch.write("a", "old");
  ASSERT_TRUE(write_text_file(scratch / "a", "new"));
  EXPECT_EQ(scratch.read("a"), "new");
}

TEST(OutputFile, HoldsSmallAndLargeWritesInOrder) {
  const test::ScratchFolder scratch;
  std::string expected;
  auto file = OutputFile::create(scratch / "a");
  ASSERT_TRUE(file);
  for (const std::size_t size : {1u, 100'000u, 200'000u, 0u, 1'000'000u, 3u, 262'144u, 262'145u}) {
    const std::string part(size, static_cast<char>('a' + size % 23));
    ASSERT_TRUE(file->write(part));
    expected += part;
    EXPECT_EQ(file->size(), expected.size());
  }
  ASSERT_TRUE(file->commit());
  EXPECT_EQ(scratch.read("a"), expected);
}

TEST(OutputFile, WritesOverWhatIsWritten) {
  const test::ScratchFolder scratch;
  auto file = OutputFile::create(scratch / "a");
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->write("....world"));
  ASSERT_TRUE(file->write_at(0, std::as_bytes(std::span("hell", 4))));
  ASSERT_TRUE(file->write("!"));
  EXPECT_EQ(file->write_at(8, std::as_bytes(std::span("long", 4))).message(),
            scratch / "a: 4 bytes to write at 8, but only 10 bytes are written yet");
  ASSERT_TRUE(file->commit());
  EXPECT_EQ(scratch.read("a"), "hellworld!");
}

TEST(OutputFile, NeedsItsFolder) {
  const test::ScratchFolder scratch;
  const auto file = OutputFile::create(scratch / "none/a");
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().message(),
            scratch / "none/a: cannot create the file: no such folder: '" + scratch.path() + "/none'");
  EXPECT_EQ(file.error().code(), Code::not_found);
}

TEST(OutputFile, CannotTakeTheNameOfAFolder) {
  const test::ScratchFolder scratch;
  scratch.write("a/b", "");
  const Status status = write_text_file(scratch / "a", "text");
  EXPECT_EQ(status.message(), scratch / "a: cannot give the finished file its name: is a directory");
  EXPECT_THAT(scratch.list(), ElementsAre("a/", "a/b"));
}

// In a child process with a file system of 64 KiB of its own; skipped where the system forbids that.
TEST(OutputFile, SaysHowMuchIsMissingOnAFullDisk) {
  const test::ScratchFolder scratch;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::string report = "skip";
    if (::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        ::mount("tmpfs", scratch.path().c_str(), "tmpfs", 0, "size=64k") == 0) {
      const Status status = write_text_file(scratch / "a", std::string(1'000'000, 'x'));
      report = status.message() + (scratch.list().empty() ? "" : " and something was left behind");
    }
    [[maybe_unused]] const ssize_t written = ::write(pipe[1], report.data(), report.size());
    ::_exit(0);
  }
  ::close(pipe[1]);
  char report[1000];
  const ssize_t size = ::read(pipe[0], report, sizeof report);
  ::close(pipe[0]);
  ::waitpid(child, nullptr, 0);
  ASSERT_GT(size, 0);
  const std::string message(report, static_cast<std::size_t>(size));
  if (message == "skip") GTEST_SKIP() << "this system does not let us mount a small file system";
  EXPECT_EQ(message, scratch /
                         "a: disk full: 934,464 more bytes to write, 0 available; free some space or choose a "
                         "folder on another disk");
}

TEST(TextFile, IsReadUpToALimit) {
  const test::ScratchFolder scratch;
  const std::string path = scratch.write("a", "hello");
  const auto whole = read_text_file(path, 5);
  ASSERT_TRUE(whole);
  EXPECT_EQ(*whole, "hello");
  const auto cut = read_text_file(path, 4);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().message(), path + ": the file is larger than 4 bytes, the most that is read of such a file");
}

TEST(CopyFile, FollowsLinksToTheContent) {
  const test::ScratchFolder scratch;
  scratch.write("a", "hello");
  std::filesystem::create_symlink("a", scratch / "link");
  ASSERT_TRUE(copy_file(scratch / "link", scratch / "b"));
  EXPECT_FALSE(std::filesystem::is_symlink(scratch / "b"));
  EXPECT_EQ(scratch.read("b"), "hello");
  EXPECT_EQ(copy_file(scratch / "none", scratch / "c").message(), scratch / "none: no such file");
}

}  // namespace
}  // namespace fettle::kit
