// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/gguf.h"

#include "unit/kit/io/gguf_bytes.h"
#include "unit/kit/io/scratch_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace fettle::kit {
namespace {

using test::GgufBytes;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::span<const std::byte> bytes_of_text(const std::string& text) { return std::as_bytes(std::span(text)); }

/// A header without pairs for one tensor 'w', whose fields follow.
GgufBytes one_tensor() { return GgufBytes().header(3, 1, 0).text("w"); }

/// A whole file of one F32 tensor 'w' of 2 by 3.
std::string small_file() {
  return GgufBytes()
      .header(3, 1, 2)
      .text("general.architecture")
      .i32(8)
      .text("llama")
      .text("a")
      .i32(9)
      .i32(4)
      .u64(2)
      .u32(7)
      .u32(8)
      .text("w")
      .u32(2)
      .i64(3)
      .i64(2)
      .i32(0)
      .u64(0)
      .align(32)
      .zeros(24)
      .align(32)
      .bytes;
}

struct BadGgufCase {
  const char* name;
  std::string file;
  std::string message;
  Code code = Code::corrupt_data;
};

class BadGguf : public ::testing::TestWithParam<BadGgufCase> {};

TEST_P(BadGguf, IsRefused) {
  const auto& c = GetParam();
  const auto content = parse_gguf(bytes_of_text(c.file), "m.gguf");
  ASSERT_FALSE(content);
  EXPECT_EQ(content.error().message(), "m.gguf: " + c.message);
  EXPECT_EQ(content.error().code(), c.code);
}

const std::string kTruncated = "; it looks truncated, compare its size with the source";

INSTANTIATE_TEST_SUITE_P(
    Header, BadGguf,
    ::testing::Values(
        BadGgufCase{"empty", "", "the magic 'GGUF' at byte 0 takes 4 bytes, but the file ends at byte 0" + kTruncated},
        BadGgufCase{"magic", "GGML\3\0\0\0", "begins with 'GGML', expected 'GGUF'; is this a GGUF file?"},
        BadGgufCase{"big_endian", std::string("GGUF\0\0\0\3", 8),
                    "is a big-endian GGUF file; convert it to little-endian", Code::unsupported},
        BadGgufCase{"version_0", GgufBytes().header(0, 0, 0).bytes,
                    "is GGUF version 0, expected 2 or 3; convert it with a current llama.cpp", Code::unsupported},
        BadGgufCase{"version_1", GgufBytes().header(1, 0, 0).bytes,
                    "is GGUF version 1, expected 2 or 3; convert it with a current llama.cpp", Code::unsupported},
        BadGgufCase{"version_4", GgufBytes().header(4, 0, 0).bytes,
                    "is GGUF version 4, expected 2 or 3; convert it with a current llama.cpp", Code::unsupported},
        BadGgufCase{"header_cut", GgufBytes().header(3, 0, 0).bytes.substr(0, 20),
                    "the header at byte 16 takes 8 bytes, but the file ends at byte 20" + kTruncated},
        BadGgufCase{
            "tensor_count_huge", GgufBytes().header(3, 1ull << 60, 0).bytes,
            "the header says 1,152,921,504,606,846,976 tensors, which is more than a file of 24 bytes can hold"},
        BadGgufCase{
            "tensor_count_negative", GgufBytes().header(3, -1ull, 0).bytes,
            "the header says 18,446,744,073,709,551,615 tensors, which is more than a file of 24 bytes can hold"},
        BadGgufCase{"pair_count_huge", GgufBytes().header(3, 0, 1).bytes,
                    "the header says 1 key/value pairs, which is more than a file of 24 bytes can hold"}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Metadata, BadGguf,
    ::testing::Values(
        BadGgufCase{"empty_key", GgufBytes().header(3, 0, 1).text("").i32(0).zeros(9).bytes,
                    "the key at byte 24 is empty"},
        BadGgufCase{"duplicate_key", GgufBytes().header(3, 0, 2).text("a").i32(4).u32(1).text("a").i32(4).u32(1).bytes,
                    "key 'a': is here a second time"},
        BadGgufCase{"key_length_overflows", GgufBytes().header(3, 0, 1).u64(-1ull).zeros(20).bytes,
                    "a key: a string of 18,446,744,073,709,551,615 bytes, expected at most 1,073,741,824"},
        BadGgufCase{"key_beyond_the_file", GgufBytes().header(3, 0, 1).u64(100).zeros(20).bytes,
                    "a key at byte 32 takes 100 bytes, but the file ends at byte 52" + kTruncated},
        BadGgufCase{"unknown_type", GgufBytes().header(3, 0, 1).text("a").i32(13).zeros(8).bytes,
                    "key 'a': unknown value type 13"},
        BadGgufCase{"negative_type", GgufBytes().header(3, 0, 1).text("a").i32(-1).zeros(8).bytes,
                    "key 'a': unknown value type -1"},
        BadGgufCase{"bool_of_two", GgufBytes().header(3, 0, 1).text("a").i32(7).u8(2).bytes,
                    "key 'a': a bool holds 2, expected 0 or 1"},
        BadGgufCase{"value_cut", GgufBytes().header(3, 0, 1).text("a").i32(10).u32(0).bytes,
                    "key 'a' at byte 37 takes 8 bytes, but the file ends at byte 41" + kTruncated},
        BadGgufCase{"text_too_long", GgufBytes().header(3, 0, 1).text("a").i32(8).u64((1u << 30) + 1).bytes,
                    "key 'a': a string of 1,073,741,825 bytes, expected at most 1,073,741,824"},
        BadGgufCase{"nested_array", GgufBytes().header(3, 0, 1).text("a").i32(9).i32(9).u64(1).bytes,
                    "key 'a': an array of arrays, which GGUF readers refuse"},
        BadGgufCase{"array_of_unknown_type", GgufBytes().header(3, 0, 1).text("a").i32(9).i32(99).u64(1).bytes,
                    "key 'a': unknown value type 9"},
        BadGgufCase{"array_too_long", GgufBytes().header(3, 0, 1).text("a").i32(9).i32(0).u64((1u << 30) + 1).bytes,
                    "key 'a': an array of 1,073,741,825 elements, expected at most 1,073,741,824"},
        BadGgufCase{"array_beyond_the_file",
                    GgufBytes().header(3, 0, 1).text("a").i32(9).i32(10).u64(3).zeros(23).bytes,
                    "key 'a': an array of 3 elements, but only 23 bytes are left in the file"},
        BadGgufCase{"texts_beyond_the_file", GgufBytes().header(3, 0, 1).text("a").i32(9).i32(8).u64(3).zeros(23).bytes,
                    "key 'a': an array of 3 elements, but only 23 bytes are left in the file"},
        BadGgufCase{"alignment_type", GgufBytes().header(3, 0, 1).text("general.alignment").i32(10).u64(32).bytes,
                    "key 'general.alignment': expected a u32"},
        BadGgufCase{"alignment_zero", GgufBytes().header(3, 0, 1).text("general.alignment").i32(4).u32(0).bytes,
                    "key 'general.alignment': is 0, expected a power of two"},
        BadGgufCase{"alignment_48", GgufBytes().header(3, 0, 1).text("general.alignment").i32(4).u32(48).bytes,
                    "key 'general.alignment': is 48, expected a power of two"}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Tensors, BadGguf,
    ::testing::Values(
        BadGgufCase{"name_too_long", GgufBytes().header(3, 1, 0).text(std::string(64, 'n')).zeros(40).bytes,
                    "tensor '" + std::string(64, 'n') + "': a name of 64 bytes, expected at most 63"},
        BadGgufCase{"duplicate_name",
                    GgufBytes().header(3, 2, 0).text("w").u32(0).i32(0).u64(0).text("w").u32(0).i32(0).u64(32).bytes,
                    "tensor 'w': is here a second time"},
        BadGgufCase{"five_dimensions", one_tensor().u32(5).zeros(60).bytes,
                    "tensor 'w': 5 dimensions, expected at most 4"},
        BadGgufCase{"dimensions_huge", one_tensor().u32(-1u).zeros(60).bytes,
                    "tensor 'w': 4,294,967,295 dimensions, expected at most 4"},
        BadGgufCase{"negative_size", one_tensor().u32(1).i64(-1).i32(0).u64(0).bytes,
                    "tensor 'w': a size is -1, expected 0 or more"},
        BadGgufCase{"retired_type", one_tensor().u32(1).i64(32).i32(4).u64(0).bytes,
                    "tensor 'w': element type 4 is not one that we know", Code::unsupported},
        BadGgufCase{"unknown_type", one_tensor().u32(1).i64(32).i32(1000).u64(0).bytes,
                    "tensor 'w': element type 1000 is not one that we know", Code::unsupported},
        BadGgufCase{"negative_type", one_tensor().u32(1).i64(32).i32(-1).u64(0).bytes,
                    "tensor 'w': element type -1 is not one that we know", Code::unsupported},
        BadGgufCase{"row_not_a_block", one_tensor().u32(2).i64(48).i64(2).i32(2).u64(0).bytes,
                    "tensor 'w': shape [2, 48] has rows of 48, but q4_0 needs a multiple of 32"},
        BadGgufCase{"elements_overflow", one_tensor().u32(2).i64(1ll << 32).i64(1ll << 32).i32(24).u64(0).bytes,
                    "tensor 'w': shape [4294967296, 4294967296] of i8 is more than 63 bits can count"},
        BadGgufCase{"bytes_overflow", one_tensor().u32(1).i64(1ll << 61).i32(0).u64(0).bytes,
                    "tensor 'w': shape [2305843009213693952] of f32 is more than 63 bits can count"},
        BadGgufCase{"first_offset_not_zero", one_tensor().u32(1).i64(8).i32(0).u64(32).bytes,
                    "tensor 'w': data begins at byte 32, expected 0: right after the tensor before it"},
        BadGgufCase{"gap",
                    GgufBytes()
                        .header(3, 2, 0)
                        .text("v")
                        .u32(1)
                        .i64(8)
                        .i32(0)
                        .u64(0)
                        .text("w")
                        .u32(1)
                        .i64(8)
                        .i32(0)
                        .u64(64)
                        .bytes,
                    "tensor 'w': data begins at byte 64, expected 32: right after the tensor before it"},
        BadGgufCase{"overlap",
                    GgufBytes()
                        .header(3, 2, 0)
                        .text("v")
                        .u32(1)
                        .i64(9)
                        .i32(0)
                        .u64(0)
                        .text("w")
                        .u32(1)
                        .i64(8)
                        .i32(0)
                        .u64(32)
                        .bytes,
                    "tensor 'w': data begins at byte 32, expected 64: right after the tensor before it"},
        BadGgufCase{"offsets_far_beyond_the_file",
                    GgufBytes()
                        .header(3, 2, 0)
                        .text("v")
                        .u32(1)
                        .i64(1ll << 62)
                        .i32(24)
                        .u64(0)
                        .text("w")
                        .u32(1)
                        .i64(8)
                        .i32(0)
                        .u64(1ull << 62)
                        .bytes,
                    "tensor 'w': data begins at byte 4,611,686,018,427,387,904 of the data, beyond the file"},
        BadGgufCase{
            "padding_wraps_around",
            GgufBytes()
                .header(3, 2, 0)
                .text("v")
                .u32(1)
                .i64(INT64_MAX)
                .i32(24)
                .u64(0)
                .text("w")
                .u32(1)
                .i64(8)
                .i32(0)
                .u64(0)
                .bytes,
            "tensor 'w': data begins at byte 0, expected 9,223,372,036,854,775,808: right after the tensor before it"},
        BadGgufCase{"sizes_add_up_to_an_overflow",
                    GgufBytes()
                        .header(3, 3, 0)
                        .text("u")
                        .u32(1)
                        .i64(1ll << 62)
                        .i32(24)
                        .u64(0)
                        .text("v")
                        .u32(1)
                        .i64(1ll << 62)
                        .i32(24)
                        .u64(1ull << 62)
                        .text("w")
                        .u32(1)
                        .i64(8)
                        .i32(0)
                        .u64(1ull << 63)
                        .bytes,
                    "tensor 'v': data begins at byte 4,611,686,018,427,387,904 of the data, beyond the file"},
        BadGgufCase{"offsets_of_another_alignment",
                    GgufBytes()
                        .header(3, 2, 1)
                        .text("general.alignment")
                        .i32(4)
                        .u32(64)
                        .text("v")
                        .u32(1)
                        .i64(8)
                        .i32(0)
                        .u64(0)
                        .text("w")
                        .u32(1)
                        .i64(8)
                        .i32(0)
                        .u64(32)
                        .bytes,
                    "tensor 'w': data begins at byte 32, expected 64: right after the tensor before it"},
        BadGgufCase{"data_cut", small_file().substr(0, 160 + 23),
                    "tensor 'w': data ends at byte 184, file has 183" + kTruncated},
        BadGgufCase{"data_missing", small_file().substr(0, 159),
                    "tensor 'w': data ends at byte 184, file has 159" + kTruncated},
        BadGgufCase{"trailing_bytes", small_file() + "xy", "the last 2 bytes belong to no tensor"}),
    [](const auto& test) { return test.param.name; });

TEST(GgufReader, ReadsASmallFile) {
  const test::ScratchFolder scratch;
  const auto reader = GgufReader::open(scratch.write("m.gguf", small_file()));
  ASSERT_TRUE(reader) << reader.error().message();
  EXPECT_EQ(reader->text("general.architecture"), "llama");
  ASSERT_NE(reader->get<std::vector<std::uint32_t>>("a"), nullptr);
  EXPECT_THAT(*reader->get<std::vector<std::uint32_t>>("a"), ElementsAre(7, 8));
  EXPECT_EQ(reader->get<std::uint32_t>("a"), nullptr);
  const TensorView* w = reader->tensor("w");
  ASSERT_NE(w, nullptr);
  EXPECT_THAT(w->shape, ElementsAre(2, 3));
  EXPECT_EQ(w->bytes.size(), 24u);
  EXPECT_EQ(std::memcmp(w->bytes.data(), small_file().data() + 160, 24), 0);
}

/// Part `number` of `count` with one tensor.
void write_part(const test::ScratchFolder& folder, unsigned number, unsigned count, const std::string& tensor,
                std::uint16_t claimed, std::int32_t total = 2) {
  auto writer = GgufWriter::create(
      folder / ("m-0000" + std::to_string(number) + "-of-0000" + std::to_string(count) + ".gguf"),
      {{"split.no", claimed}, {"split.count", static_cast<std::uint16_t>(count)}, {"split.tensors.count", total}},
      {{tensor, DType::f32, {1}}});
  const float value = static_cast<float>(number);
  ASSERT_TRUE(writer->append(tensor, std::as_bytes(std::span(&value, 1))));
  ASSERT_TRUE(writer->finish());
}

TEST(GgufReader, OpensAModelInParts) {
  const test::ScratchFolder folder;
  write_part(folder, 1, 2, "a", 0);
  write_part(folder, 2, 2, "b", 1);
  const auto model = GgufReader::open_model(folder.path());
  ASSERT_TRUE(model) << model.error().message();
  ASSERT_EQ(model->tensors().size(), 2u);
  float b = 0;
  std::memcpy(&b, model->tensor("b")->bytes.data(), sizeof b);
  EXPECT_EQ(b, 2);
}

TEST(GgufReader, RefusesPartsThatDoNotBelongTogether) {
  const test::ScratchFolder folder;
  write_part(folder, 1, 2, "a", 0);
  write_part(folder, 2, 2, "b", 0);
  EXPECT_EQ(GgufReader::open_model(folder.path()).error().message(),
            (folder / "m-00002-of-00002.gguf") +
                ": says it is part 0 of 2 (split.no, split.count), expected 1 of 2 by its name");
  write_part(folder, 2, 2, "a", 1);
  EXPECT_EQ(GgufReader::open_model(folder.path()).error().message(),
            (folder / "m-00001-of-00002.gguf") + ": tensor 'a' is in two parts of the model");
  write_part(folder, 1, 2, "a", 0, 3);
  write_part(folder, 2, 2, "b", 1);
  EXPECT_EQ(GgufReader::open_model(folder.path()).error().message(),
            (folder / "m-00001-of-00002.gguf") + ": key 'split.tensors.count' is 3, but the parts hold 2 tensors");
}

TEST(GgufReader, RefusesEveryTruncationOfASmallFile) {
  const std::string whole = small_file();
  for (std::size_t size = 0; size < 160 + 24; ++size)
    EXPECT_FALSE(parse_gguf(bytes_of_text(whole.substr(0, size)), "m")) << size;
}

TEST(GgufReader, TheLastPaddingMayBeMissing) {
  EXPECT_TRUE(parse_gguf(bytes_of_text(small_file().substr(0, 160 + 24)), "m"));
}

TEST(GgufReader, HonoursTheAlignmentKey) {
  const std::string file = GgufBytes()
                               .header(2, 2, 1)
                               .text("general.alignment")
                               .i32(4)
                               .u32(64)
                               .text("v")
                               .u32(1)
                               .i64(1)
                               .i32(24)
                               .u64(0)
                               .text("w")
                               .u32(0)
                               .i32(24)
                               .u64(64)
                               .align(64)
                               .u8(5)
                               .align(64)
                               .u8(6)
                               .align(64)
                               .bytes;
  const auto content = parse_gguf(bytes_of_text(file), "m");
  ASSERT_TRUE(content) << content.error().message();
  EXPECT_EQ(content->tensors[0].bytes[0], std::byte{5});
  EXPECT_EQ(content->tensors[1].bytes[0], std::byte{6});
  EXPECT_THAT(content->tensors[1].shape, IsEmpty());
}

GgufMetadata every_type() {
  return {{"u8", std::uint8_t{200}},
          {"i8", std::int8_t{-100}},
          {"u16", std::uint16_t{60000}},
          {"i16", std::int16_t{-30000}},
          {"u32", std::uint32_t{4'000'000'000}},
          {"i32", std::int32_t{-2'000'000'000}},
          {"f32", 1.5f},
          {"bool", true},
          {"string", std::string("a\0\xff", 3)},
          {"u64", std::uint64_t{1} << 63},
          {"i64", std::int64_t{-1} << 60},
          {"f64", 0.1},
          {"u8s", std::vector<std::uint8_t>{1, 2}},
          {"i8s", std::vector<std::int8_t>{-1}},
          {"u16s", std::vector<std::uint16_t>{}},
          {"i16s", std::vector<std::int16_t>{-5}},
          {"u32s", std::vector<std::uint32_t>{1}},
          {"i32s", std::vector<std::int32_t>{-1}},
          {"f32s", std::vector<float>{0.5f}},
          {"bools", std::vector<bool>{true, false, true}},
          {"strings", std::vector<std::string>{"", "b"}},
          {"u64s", std::vector<std::uint64_t>{1}},
          {"i64s", std::vector<std::int64_t>{-1}},
          {"f64s", std::vector<double>{0.25}}};
}

TEST(GgufWriter, EveryTypeOfValueIsReadBack) {
  const test::ScratchFolder scratch;
  auto writer = GgufWriter::create(scratch / "m.gguf", every_type(), {});
  ASSERT_TRUE(writer) << writer.error().message();
  ASSERT_TRUE(writer->finish());
  const auto reader = GgufReader::open(scratch / "m.gguf");
  ASSERT_TRUE(reader) << reader.error().message();
  EXPECT_EQ(reader->metadata(), every_type());
}

TEST(GgufReader, NumbersConvertWhereTheyFit) {
  const test::ScratchFolder scratch;
  auto writer = GgufWriter::create(scratch / "m.gguf", every_type(), {});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->finish());
  const auto reader = GgufReader::open(scratch / "m.gguf");
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->integer("u8", 0), 200);
  EXPECT_EQ(reader->integer("i8", 0), -100);
  EXPECT_EQ(reader->integer("u16", 0), 60000);
  EXPECT_EQ(reader->integer("i16", 0), -30000);
  EXPECT_EQ(reader->integer("u32", 0), 4'000'000'000);
  EXPECT_EQ(reader->integer("i32", 0), -2'000'000'000);
  EXPECT_EQ(reader->integer("i64", 0), std::int64_t{-1} << 60);
  EXPECT_EQ(reader->integer("u64", 7), 7) << "2^63 does not fit";
  EXPECT_EQ(reader->integer("f32", 7), 7) << "not an integer";
  EXPECT_EQ(reader->integer("bool", 7), 7);
  EXPECT_EQ(reader->integer("absent", 7), 7);
  EXPECT_EQ(reader->real("f32", 0), 1.5);
  EXPECT_EQ(reader->real("f64", 0), 0.1);
  EXPECT_EQ(reader->real("i8", 0), -100.0);
  EXPECT_EQ(reader->real("string", 7), 7.0);
  EXPECT_EQ(reader->text("u8", "x"), "x");
}

TEST(GgufWriter, WritesTheBytesOfTheFormat) {
  const test::ScratchFolder scratch;
  auto writer = GgufWriter::create(
      scratch / "m.gguf", {{"general.architecture", std::string("llama")}, {"a", std::vector<std::uint32_t>{7, 8}}},
      {{"w", DType::f32, {2, 3}}});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->append("w", std::vector<std::byte>(24)));
  ASSERT_TRUE(writer->finish());
  EXPECT_EQ(scratch.read("m.gguf"), small_file());
}

TEST(GgufWriter, WhatItWritesIsReadBack) {
  std::mt19937 random(7);
  const DType types[] = {DType::f32, DType::f16, DType::bf16, DType::q4_0, DType::q8_0, DType::q4_k, DType::i8};
  for (int round = 0; round < 50; ++round) {
    const test::ScratchFolder scratch;
    std::vector<TensorSpec> specs;
    std::map<std::string, std::string> data;
    for (unsigned i = 0; i < random() % 8; ++i) {
      TensorSpec spec{"blk." + std::to_string(i), types[random() % std::size(types)], {}};
      for (unsigned rank = random() % 4; rank > 0; --rank) spec.shape.push_back(random() % 4);
      spec.shape.push_back(info(spec.dtype).block_elems * static_cast<int>(random() % 3));
      data[spec.name].resize(*byte_size(spec));
      for (char& c : data[spec.name]) c = static_cast<char>(random());
      specs.push_back(spec);
    }
    GgufMetadata metadata = every_type();
    if (round % 2 == 1) metadata.emplace_back("general.alignment", 1u << random() % 8);
    auto writer = GgufWriter::create(scratch / "m", metadata, specs);
    ASSERT_TRUE(writer) << writer.error().message();
    for (const TensorSpec& spec : specs) ASSERT_TRUE(writer->append(spec.name, bytes_of_text(data[spec.name])));
    ASSERT_TRUE(writer->finish());

    const auto reader = GgufReader::open(scratch / "m");
    ASSERT_TRUE(reader) << reader.error().message();
    EXPECT_EQ(reader->metadata(), metadata);
    ASSERT_EQ(reader->tensors().size(), specs.size());
    for (const TensorSpec& spec : specs) {
      const TensorView* tensor = reader->tensor(spec.name);
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(tensor->dtype, spec.dtype);
      EXPECT_EQ(tensor->shape, spec.shape);
      EXPECT_TRUE(std::ranges::equal(tensor->bytes, bytes_of_text(data[spec.name])));
    }
  }
}

struct BadGgufSpecCase {
  const char* name;
  GgufMetadata metadata;
  std::vector<TensorSpec> tensors;
  std::string message;
};

class BadGgufSpec : public ::testing::TestWithParam<BadGgufSpecCase> {};

TEST_P(BadGgufSpec, IsRefusedByTheWriter) {
  const test::ScratchFolder scratch;
  const auto writer = GgufWriter::create(scratch / "m", GetParam().metadata, GetParam().tensors);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().message(), scratch / "m: " + GetParam().message);
  EXPECT_EQ(writer.error().code(), Code::invalid_argument);
  EXPECT_THAT(scratch.list(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Rows, BadGgufSpec,
    ::testing::Values(
        BadGgufSpecCase{"empty_key", {{"", true}}, {}, "a key is empty"},
        BadGgufSpecCase{"same_key", {{"a", true}, {"a", true}}, {}, "key 'a': is given twice"},
        BadGgufSpecCase{"alignment",
                        {{"general.alignment", 48u}},
                        {},
                        "key 'general.alignment': expected a u32 that is a power of two"},
        BadGgufSpecCase{
            "same_name", {}, {{"w", DType::f32, {1}}, {"w", DType::f32, {1}}}, "tensor 'w': the name is taken"},
        BadGgufSpecCase{"long_name",
                        {},
                        {{std::string(64, 'n'), DType::f32, {1}}},
                        "tensor '" + std::string(64, 'n') + "': a name of 64 bytes, expected at most 63"},
        BadGgufSpecCase{
            "dimensions", {}, {{"w", DType::f32, {1, 1, 1, 1, 1}}}, "tensor 'w': 5 dimensions, expected at most 4"},
        BadGgufSpecCase{"type", {}, {{"w", DType::f8_e4m3, {1}}}, "tensor 'w': f8_e4m3 cannot be stored in GGUF"},
        BadGgufSpecCase{"block",
                        {},
                        {{"w", DType::q6_k, {2, 128}}},
                        "tensor 'w': shape [2, 128] has rows of 128, but q6_k needs a multiple of 256"}),
    [](const auto& test) { return test.param.name; });

TEST(GgufWriter, WantsTheBytesInTurnAndInFull) {
  const test::ScratchFolder scratch;
  auto writer = GgufWriter::create(scratch / "m", {}, {{"a", DType::i8, {4}}, {"b", DType::i8, {2}}});
  ASSERT_TRUE(writer);
  const std::vector<std::byte> bytes(8);
  EXPECT_EQ(writer->append("b", bytes).message(),
            scratch / "m: tensor 'b': 8 bytes out of turn; tensor 'a' has 0 of 4 bytes");
  EXPECT_EQ(writer->finish().message(),
            scratch / "m: tensor 'a': the file is to be finished, but only 0 of 4 bytes have come");
}

}  // namespace
}  // namespace fettle::kit
