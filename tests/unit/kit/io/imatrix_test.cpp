// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/imatrix.h"

#include "fettle_kit/io/gguf.h"

#include "scratch_folder.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fettle::kit {
namespace {

Imatrix sample() {
  Imatrix m;
  m.datasets = {"prose"};
  m.chunks = 2;
  m.chunk_size = 8;
  m.entries["blk.0.attn_q.weight"] = {{4, 8, 12}, {4}};
  m.entries["blk.0.ffn_up_exps.weight"] = {{1, 2, 3, 4}, {2, 0}};
  return m;
}

TEST(Imatrix, ComesBackAsWritten) {
  const fettle::test::ScratchFolder folder;
  const std::string path = (folder / "m.gguf");
  ASSERT_TRUE(sample().save(path).ok());
  const auto back = Imatrix::open(path);
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_EQ(back->datasets, sample().datasets);
  EXPECT_EQ(back->chunks, 2u);
  EXPECT_EQ(back->chunk_size, 8u);
  EXPECT_EQ(back->entries.at("blk.0.attn_q.weight").sums, (std::vector<float>{4, 8, 12}));
  EXPECT_EQ(back->entries.at("blk.0.ffn_up_exps.weight").counts, (std::vector<float>{2, 0}));
}

TEST(Imatrix, MeansAreSumsPerTokenAndOneForWhatSawNothing) {
  EXPECT_EQ(sample().entries.at("blk.0.attn_q.weight").means(), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(sample().entries.at("blk.0.ffn_up_exps.weight").means(), (std::vector<float>{0.5f, 1, 1, 1}));
}

TEST(Imatrix, IsTheOneFileOfItsFolder) {
  const fettle::test::ScratchFolder folder;
  ASSERT_TRUE(sample().save((folder / "m.gguf")).ok());
  EXPECT_TRUE(Imatrix::open(folder.path()).ok());
  ASSERT_TRUE(sample().save((folder / "n.gguf")).ok());
  EXPECT_EQ(Imatrix::open(folder.path()).error().message(),
            folder.path() + ": found 2 files with the ending .gguf, .dat or .imatrix, expected one importance matrix");
}

/// The form of before 2025, field by field.
class OldFile {
 public:
  OldFile& i32(std::int32_t v) { return raw(&v, sizeof v); }
  OldFile& f32(float v) { return raw(&v, sizeof v); }
  OldFile& text(const std::string& s) { return i32(static_cast<std::int32_t>(s.size())).raw(s.data(), s.size()); }
  std::string write(const fettle::test::ScratchFolder& folder) const { return folder.write("imatrix.dat", bytes_); }

 private:
  OldFile& raw(const void* data, std::size_t size) {
    bytes_.append(static_cast<const char*>(data), size);
    return *this;
  }
  std::string bytes_;
};

TEST(Imatrix, ReadsTheOldForm) {
  const fettle::test::ScratchFolder folder;
  const auto m = Imatrix::open(OldFile()
                                   .i32(1)
                                   .text("blk.0.attn_q.weight")
                                   .i32(4)
                                   .i32(3)
                                   .f32(4)
                                   .f32(8)
                                   .f32(2)
                                   .i32(100)
                                   .text("wiki.train.raw")
                                   .write(folder));
  ASSERT_TRUE(m.ok()) << m.error().message();
  EXPECT_EQ(m->entries.at("blk.0.attn_q.weight").means(), (std::vector<float>{1, 2, 0.5f}));
  EXPECT_EQ(m->chunks, 100u);
  EXPECT_EQ(m->datasets, std::vector<std::string>{"wiki.train.raw"});
}

TEST(Imatrix, ReadsTheOldFormWithoutItsLastFields) {
  const fettle::test::ScratchFolder folder;
  const auto m = Imatrix::open(OldFile().i32(1).text("x").i32(0).i32(1).f32(3).write(folder));
  ASSERT_TRUE(m.ok()) << m.error().message();
  EXPECT_EQ(m->entries.at("x").means(), std::vector<float>{3});
  EXPECT_EQ(m->chunks, 0u);
}

struct BadCase {
  const char* name;
  OldFile file;
  const char* message;
};

class BadImatrix : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadImatrix, IsRefused) {
  const fettle::test::ScratchFolder folder;
  const std::string path = GetParam().file.write(folder);
  const auto m = Imatrix::open(path);
  ASSERT_FALSE(m.ok());
  EXPECT_EQ(m.error().message(), path + ": " + GetParam().message);
  EXPECT_EQ(m.error().code(), Code::corrupt_data);
}

INSTANTIATE_TEST_SUITE_P(
    OldForm, BadImatrix,
    ::testing::Values(
        BadCase{"empty", OldFile(),
                "not an importance matrix: the number of entries takes 4 bytes at byte 0, but the file ends at byte 0"},
        BadCase{"no_entries", OldFile().i32(0),
                "not an importance matrix: the number of entries is 0, expected 1 or more"},
        BadCase{"negative_name", OldFile().i32(1).i32(-1),
                "not an importance matrix: the name of an entry is -1, expected 0 or more"},
        BadCase{"long_name", OldFile().i32(1).i32(2147483647),
                "not an importance matrix: the name of an entry takes 2,147,483,647 bytes at byte 8, but the file ends "
                "at byte 8"},
        BadCase{"negative_calls", OldFile().i32(1).text("x").i32(-2).i32(1).f32(0),
                "not an importance matrix: the calls of an entry is -2, expected 0 or more"},
        BadCase{"many_values", OldFile().i32(1).text("x").i32(1).i32(2147483647).f32(0),
                "not an importance matrix: the values of an entry takes 8,589,934,588 bytes at byte 17, but the file "
                "ends at byte 21"},
        BadCase{"nan", OldFile().i32(1).text("x").i32(1).i32(1).f32(NAN),
                "entry 'x' holds nan, expected numbers of 0 or more"},
        BadCase{"negative", OldFile().i32(1).text("x").i32(1).i32(1).f32(-1),
                "entry 'x' holds -1, expected numbers of 0 or more"},
        BadCase{"twice", OldFile().i32(2).text("x").i32(1).i32(1).f32(1).text("x").i32(1).i32(1).f32(1),
                "not an importance matrix: entry 'x' is here a second time"},
        BadCase{"trailing", OldFile().i32(1).text("x").i32(1).i32(1).f32(1).i32(3).text("d").i32(0),
                "not an importance matrix: more bytes after its end"}),
    [](const auto& row) { return row.param.name; });

TEST(Imatrix, RefusesAGgufFileOfAnotherKind) {
  const fettle::test::ScratchFolder folder;
  auto writer = GgufWriter::create((folder / "m.gguf"), {{"general.type", std::string("model")}}, {});
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_EQ(Imatrix::open((folder / "m.gguf")).error().message(),
            (folder / "m.gguf") + ": not an importance matrix: general.type is 'model', expected 'imatrix'");
}

}  // namespace
}  // namespace fettle::kit
