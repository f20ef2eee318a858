// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/safetensors.h"

#include "unit/kit/io/safetensors_bytes.h"
#include "unit/kit/io/scratch_folder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <random>

namespace fettle::kit {
namespace {

using test::safetensors_bytes;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::span<const std::byte> bytes_of_text(const std::string& text) { return std::as_bytes(std::span(text)); }

struct BadFileCase {
  const char* name;
  std::string file;
  std::string message;
  Code code = Code::corrupt_data;
};

class BadSafetensors : public ::testing::TestWithParam<BadFileCase> {};

TEST_P(BadSafetensors, IsRefused) {
  const auto& c = GetParam();
  const auto content = parse_safetensors(bytes_of_text(c.file), "m.safetensors");
  ASSERT_FALSE(content);
  EXPECT_EQ(content.error().message(), "m.safetensors: " + c.message);
  EXPECT_EQ(content.error().code(), c.code);
}

std::string length_only(std::uint64_t length) { return {reinterpret_cast<const char*>(&length), 8}; }

/// A file with one tensor 'a' of that entry.
std::string entry(std::string_view text, std::size_t data_bytes = 8) {
  return safetensors_bytes("{\"a\":" + std::string(text) + "}", data_bytes);
}

/// A file with two tensors, 'a' and 'b', of 8 bytes each.
std::string two(std::string_view offsets_a, std::string_view offsets_b, std::size_t data_bytes = 16) {
  const auto tensor = [](std::string_view offsets) {
    return R"({"dtype":"F32","shape":[2],"data_offsets":)" + std::string(offsets) + "}";
  };
  return safetensors_bytes("{\"a\":" + tensor(offsets_a) + ",\"b\":" + tensor(offsets_b) + "}", data_bytes);
}

INSTANTIATE_TEST_SUITE_P(
    Rule1to5, BadSafetensors,
    ::testing::Values(
        BadFileCase{"empty", "", "file has 0 bytes, a safetensors file has at least 8"},
        BadFileCase{"seven_bytes", "1234567", "file has 7 bytes, a safetensors file has at least 8"},
        BadFileCase{"header_too_large", length_only(100'000'001),
                    "header of 100,000,001 bytes, expected at most 100,000,000; is this a safetensors file?"},
        BadFileCase{"header_length_overflows", length_only(0xffff'ffff'ffff'ffff),
                    "header of 18,446,744,073,709,551,615 bytes, expected at most 100,000,000; is this a safetensors "
                    "file?"},
        BadFileCase{"header_beyond_the_file", length_only(3) + "{}",
                    "header ends at byte 11, file has 10; it looks truncated, compare its size with the source"},
        BadFileCase{
            "header_not_utf8", safetensors_bytes("{\"\xff\":1}", 0),
            "header:1:3: invalid JSON: syntax error while parsing object key - invalid string: ill-formed UTF-8 "
            "byte; last read: '\"?'; expected string literal"},
        BadFileCase{"header_empty", length_only(0),
                    "header begins with nothing, expected '{'; is this a safetensors file?"},
        BadFileCase{"header_an_array", safetensors_bytes("[]", 0),
                    "header begins with '[', expected '{'; is this a safetensors file?"},
        BadFileCase{"header_after_space", safetensors_bytes(" {}", 0),
                    "header begins with ' ', expected '{'; is this a safetensors file?"},
        BadFileCase{
            "header_cut", safetensors_bytes("{\"a\":", 0),
            "header:1:6: invalid JSON: syntax error while parsing value - unexpected end of input; expected '[', "
            "'{', or a literal"},
        BadFileCase{
            "text_after_header", safetensors_bytes("{}{}", 0),
            "header:1:3: invalid JSON: syntax error while parsing value - unexpected '{'; expected end of input"},
        BadFileCase{"padded_with_lines", safetensors_bytes("{}\n\n", 0),
                    "header is padded with something else than spaces"}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Rule6and7, BadSafetensors,
    ::testing::Values(
        BadFileCase{"entry_not_object", entry("7"), "tensor 'a': is number, expected an object"},
        BadFileCase{"no_dtype", entry(R"({"shape":[2],"data_offsets":[0,8]})"), "tensor 'a': has no 'dtype'"},
        BadFileCase{"no_shape", entry(R"({"dtype":"F32","data_offsets":[0,8]})"), "tensor 'a': has no 'shape'"},
        BadFileCase{"no_offsets", entry(R"({"dtype":"F32","shape":[2]})"), "tensor 'a': has no 'data_offsets'"},
        BadFileCase{
            "unknown_dtype", entry(R"({"dtype":"f32","shape":[2],"data_offsets":[0,8]})"),
            "tensor 'a': dtype is 'f32', expected one of BOOL, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, I16, U16, F16, "
            "BF16, I32, U32, F32, F64, I64, U64"},
        BadFileCase{"dtype_not_text", entry(R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})"),
                    "tensor 'a': dtype is number, expected a string"},
        BadFileCase{"shape_not_array", entry(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"),
                    "tensor 'a': shape is number, expected an array"},
        BadFileCase{"negative_size", entry(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
                    "tensor 'a': shape holds '-2', expected non-negative integers"},
        BadFileCase{"fractional_size", entry(R"({"dtype":"F32","shape":[2.5],"data_offsets":[0,8]})"),
                    "tensor 'a': shape holds '2.5', expected non-negative integers"},
        BadFileCase{"size_as_float", entry(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
                    "tensor 'a': shape holds '2.0', expected non-negative integers"},
        BadFileCase{"size_beyond_64_bits",
                    entry(R"({"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]})"),
                    "tensor 'a': shape holds '1.8446744073709552e+19', expected non-negative integers"},
        BadFileCase{"one_offset", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"),
                    "tensor 'a': data_offsets is '[0]', expected two non-negative integers"},
        BadFileCase{"three_offsets", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"),
                    "tensor 'a': data_offsets is '[0,8,8]', expected two non-negative integers"},
        BadFileCase{"negative_offset", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})"),
                    "tensor 'a': data_offsets is '[-8,0]', expected two non-negative integers"},
        BadFileCase{"fractional_offset", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8.0]})"),
                    "tensor 'a': data_offsets is '[0,8.0]', expected two non-negative integers"},
        BadFileCase{"metadata_not_object", safetensors_bytes(R"({"__metadata__":[]})", 0),
                    "__metadata__ is array, expected an object"},
        BadFileCase{"metadata_number", safetensors_bytes(R"({"__metadata__":{"epoch":3}})", 0),
                    "__metadata__: 'epoch' is number, expected a string"}),
    [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Rule8to15, BadSafetensors,
    ::testing::Values(
        BadFileCase{"first_not_at_zero", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})", 12),
                    "tensor 'a': data begins at byte 4, expected 0"},
        BadFileCase{"hole", two("[0,8]", "[12,20]", 20),
                    "tensor 'b': data begins at byte 12, but tensor 'a' before it ends at byte 8"},
        BadFileCase{"overlap", two("[0,8]", "[4,12]", 12),
                    "tensor 'b': data begins at byte 4, inside tensor 'a', which ends at byte 8"},
        BadFileCase{"same_place", two("[0,8]", "[0,8]", 8),
                    "tensor 'b': data begins at byte 0, inside tensor 'a', which ends at byte 8"},
        BadFileCase{"end_before_begin", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
                    "tensor 'a': data begins at byte 8 and ends at byte 0"},
        BadFileCase{"elements_overflow",
                    entry(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,8]})"),
                    "tensor 'a': shape [4294967296, 4294967296] of u8 is more than 63 bits can count"},
        BadFileCase{"bytes_overflow", entry(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,8]})"),
                    "tensor 'a': shape [2305843009213693952] of f64 is more than 63 bits can count"},
        BadFileCase{"overflow_hidden_by_zero",
                    entry(R"({"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})", 0),
                    "tensor 'a': shape [4294967296, 4294967296, 0] of u8 is more than 63 bits can count"},
        BadFileCase{"size_beyond_63_bits",
                    entry(R"({"dtype":"U8","shape":[9223372036854775808,0],"data_offsets":[0,0]})", 0),
                    "tensor 'a': shape holds 9,223,372,036,854,775,808, which is more than 63 bits can count"},
        BadFileCase{"sub_byte_type", entry(R"({"dtype":"F4","shape":[16],"data_offsets":[0,8]})"),
                    "tensor 'a': dtype F4 cannot be read yet; convert the model to BF16 or F16", Code::unsupported},
        BadFileCase{"wrong_byte_count", entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
                    "tensor 'a': data_offsets span 8 bytes, but shape [3] of F32 needs 12"},
        BadFileCase{"truncated", two("[0,8]", "[8,16]", 15),
                    "tensor 'b': data ends at byte 132, file has 131; it looks truncated, compare its size with the "
                    "source"},
        BadFileCase{"trailing_bytes", two("[0,8]", "[8,16]", 17), "the last 1 bytes belong to no tensor"},
        BadFileCase{"data_without_tensors", safetensors_bytes("{}", 5), "the last 5 bytes belong to no tensor"},
        BadFileCase{"duplicate_tensor", safetensors_bytes("{\"a\":1,\"a\":2}", 0),
                    "header:1:8: key 'a' is here a second time; keep one"},
        BadFileCase{"duplicate_field", entry(R"({"dtype":"F32","dtype":"F32"})"),
                    "header:1:21: key 'dtype' is here a second time; keep one"},
        BadFileCase{"absurd_rank",
                    entry("{\"dtype\":\"U8\",\"shape\":[1" +
                          [] {
                            std::string ones;
                            for (int i = 0; i < 64; ++i) ones += ",1";
                            return ones;
                          }() +
                          "],\"data_offsets\":[0,1]}"),
                    "tensor 'a': shape has 65 dimensions, expected at most 64"},
        BadFileCase{"long_name", safetensors_bytes("{\"" + std::string(65'537, 'n') + "\":{}}", 0),
                    "tensor '" + std::string(80, 'n') + "...': a name of 65,537 bytes, expected at most 65,536"},
        BadFileCase{"deep_header", entry(R"({"dtype":"F32","shape":[[2]],"data_offsets":[0,8]})"),
                    "header:1:30: nested deeper than 3 levels"}),
    [](const auto& test) { return test.param.name; });

// The golden vector of the format note, byte for byte.
std::string golden() {
  std::string file("\x58\0\0\0\0\0\0\0", 8);
  file +=
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})" + std::string(3, ' ');
  return file.append("\x00\x00\x80\x3f\x00\x00\x00\xc0", 8);
}

TEST(SafetensorsReader, ReadsTheGoldenVector) {
  const test::ScratchFolder scratch;
  const auto reader = SafetensorsReader::open(scratch.write("m.safetensors", golden()));
  ASSERT_TRUE(reader) << reader.error().message();
  ASSERT_EQ(reader->tensors().size(), 1u);
  const TensorView* a = reader->find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->dtype, DType::f32);
  EXPECT_THAT(a->shape, ElementsAre(2));
  float values[2];
  std::memcpy(values, a->bytes.data(), 8);
  EXPECT_THAT(values, ElementsAre(1.0f, -2.0f));
  EXPECT_THAT(reader->metadata(), ElementsAre(std::pair<const std::string, std::string>("format", "pt")));
  EXPECT_EQ(reader->find("b"), nullptr);
}

TEST(SafetensorsWriter, WritesTheGoldenVector) {
  const test::ScratchFolder scratch;
  auto writer = SafetensorsWriter::create(scratch / "m.safetensors", {{"a", DType::f32, {2}}});
  ASSERT_TRUE(writer) << writer.error().message();
  const float values[] = {1.0f, -2.0f};
  ASSERT_TRUE(writer->append("a", std::as_bytes(std::span(values))));
  ASSERT_TRUE(writer->finish());
  EXPECT_EQ(scratch.read("m.safetensors"), golden());
}

TEST(SafetensorsReader, AcceptsScalarsAndEmptyTensorsAnywhere) {
  const std::string file = safetensors_bytes(
      R"({"z":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]},"s":{"dtype":"I32","shape":[],"data_offsets":[0,4]},)"
      R"("e":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}})",
      4);
  const auto content = parse_safetensors(bytes_of_text(file), "m");
  ASSERT_TRUE(content) << content.error().message();
  std::vector<std::string> names;
  for (const TensorView& tensor : content->tensors) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("e", "s", "z"));
  EXPECT_EQ(content->tensors[0].rows(), 3);
  EXPECT_EQ(content->tensors[0].elements(), 0);
  EXPECT_EQ(content->tensors[1].elements(), 1);
  EXPECT_EQ(content->tensors[1].rows(), 1);
  EXPECT_EQ(content->tensors[1].cols(), 1);
  EXPECT_EQ(content->tensors[2].rows(), 0);
}

TEST(SafetensorsReader, WarnsOfUnknownKeysInAnEntry) {
  const std::string file = entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"crc":1})");
  const auto content = parse_safetensors(bytes_of_text(file), "m");
  ASSERT_TRUE(content) << content.error().message();
  EXPECT_THAT(content->warnings, ElementsAre("m: tensor 'a': unknown key 'crc' is ignored"));
}

TEST(SafetensorsReader, RefusesEveryTruncationOfASmallFile) {
  const std::string whole = golden();
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_FALSE(parse_safetensors(bytes_of_text(whole.substr(0, size)), "m")) << size;
}

TEST(SafetensorsReader, OpensFourGigabytesWithoutPrivateMemory) {
  const test::ScratchFolder scratch;
  const std::string path = scratch.write(
      "m.safetensors",
      safetensors_bytes(R"({"a":{"dtype":"BF16","shape":[65536,32768],"data_offsets":[0,4294967296]}})", 0));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + 4'294'967'296);
  const auto private_kib = [] {
    std::ifstream status("/proc/self/status");
    std::string word;
    while (status >> word && word != "RssAnon:") {
    }
    long kib = 0;
    status >> kib;
    return kib;
  };
  const long before = private_kib();
  const auto reader = SafetensorsReader::open(path);
  ASSERT_TRUE(reader) << reader.error().message();
  std::byte last = reader->tensors()[0].bytes.back();
  EXPECT_EQ(last, std::byte{0});
  EXPECT_LT(private_kib() - before, 4096);  // KiB; a thousandth of the file
}

TEST(SafetensorsWriter, WhatItWritesIsReadBack) {
  std::mt19937 random(7);
  const DType types[] = {DType::f64,     DType::f32, DType::f16, DType::bf16,   DType::f8_e4m3, DType::f8_e5m2,
                         DType::f8_e8m0, DType::i64, DType::i32, DType::i16,    DType::i8,      DType::u64,
                         DType::u32,     DType::u16, DType::u8,  DType::boolean};
  for (int round = 0; round < 50; ++round) {
    const test::ScratchFolder scratch;
    std::vector<TensorSpec> specs;
    std::map<std::string, std::string> data;
    for (unsigned i = 0; i < random() % 8; ++i) {
      TensorSpec spec{"t\xc3\xa4\"\\" + std::to_string(i), types[random() % std::size(types)], {}};
      for (unsigned rank = random() % 4; rank > 0; --rank) spec.shape.push_back(random() % 5);
      data[spec.name].resize(*byte_size(spec));
      for (char& c : data[spec.name]) c = static_cast<char>(random());
      specs.push_back(spec);
    }
    specs = ordered_for_safetensors(specs);
    auto writer = SafetensorsWriter::create(scratch / "m", specs, {{"note", "x\ny"}});
    ASSERT_TRUE(writer) << writer.error().message();
    for (const TensorSpec& spec : specs) {
      const auto bytes = bytes_of_text(data[spec.name]);
      const std::size_t first = bytes.empty() ? 0 : random() % bytes.size();
      ASSERT_TRUE(writer->append(spec.name, bytes.first(first)));
      ASSERT_TRUE(writer->append(spec.name, bytes.subspan(first)));
    }
    ASSERT_TRUE(writer->finish());

    const auto reader = SafetensorsReader::open(scratch / "m");
    ASSERT_TRUE(reader) << reader.error().message();
    EXPECT_EQ(reader->metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"note", "x\ny"}}));
    ASSERT_EQ(reader->tensors().size(), specs.size());
    for (const TensorSpec& spec : specs) {
      const TensorView* tensor = reader->find(spec.name);
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(tensor->dtype, spec.dtype);
      EXPECT_EQ(tensor->shape, spec.shape);
      EXPECT_TRUE(std::ranges::equal(tensor->bytes, bytes_of_text(data[spec.name])));
    }
  }
}

TEST(SafetensorsWriter, DataBeginsAtAMultipleOfEight) {
  const test::ScratchFolder scratch;
  for (const char* name : {"a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh"}) {
    auto writer = SafetensorsWriter::create(scratch / name, {{name, DType::u8, {0}}});
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->finish());
    EXPECT_EQ(scratch.read(name).size() % 8, 0u);
  }
}

TEST(SafetensorsWriter, OrdersWideTypesFirstThenNames) {
  const auto ordered = ordered_for_safetensors({{"b", DType::u8, {1}},
                                                {"d", DType::bf16, {1}},
                                                {"c", DType::f32, {1}},
                                                {"a", DType::bf16, {1}},
                                                {"e", DType::i64, {1}}});
  std::string names;
  for (const TensorSpec& spec : ordered) names += spec.name;
  EXPECT_EQ(names, "ecadb");
}

struct BadSpecsCase {
  const char* name;
  std::vector<TensorSpec> specs;
  std::string message;
};

class BadSpecs : public ::testing::TestWithParam<BadSpecsCase> {};

TEST_P(BadSpecs, AreRefusedByTheWriter) {
  const test::ScratchFolder scratch;
  const auto writer = SafetensorsWriter::create(scratch / "m", GetParam().specs);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().message(), scratch / "m: " + GetParam().message);
  EXPECT_EQ(writer.error().code(), Code::invalid_argument);
  EXPECT_THAT(scratch.list(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Rows, BadSpecs,
    ::testing::Values(
        BadSpecsCase{"same_name", {{"a", DType::f32, {1}}, {"a", DType::f32, {1}}}, "tensor 'a': the name is taken"},
        BadSpecsCase{"reserved_name", {{"__metadata__", DType::f32, {1}}}, "tensor '__metadata__': the name is taken"},
        BadSpecsCase{
            "not_utf8", {{"\xff", DType::f32, {1}}}, "tensor '\\xff': a name is UTF-8 of at most 65,536 bytes"},
        BadSpecsCase{"block_type", {{"a", DType::q4_k, {256}}}, "tensor 'a': q4_k cannot be stored in safetensors"},
        BadSpecsCase{"negative", {{"a", DType::f32, {2, -1}}}, "tensor 'a': shape [2, -1] has a negative size"},
        BadSpecsCase{"overflow",
                     {{"a", DType::f32, {1LL << 40, 1LL << 40}}},
                     "tensor 'a': shape [1099511627776, 1099511627776] of f32 is more than 63 bits can count"},
        BadSpecsCase{"rank",
                     {{"a", DType::f32, std::vector<std::int64_t>(65, 1)}},
                     "tensor 'a': shape has 65 dimensions, expected at most 64"}),
    [](const auto& test) { return test.param.name; });

TEST(SafetensorsWriter, WantsTheBytesInTurnAndInFull) {
  const test::ScratchFolder scratch;
  auto writer = SafetensorsWriter::create(scratch / "m",
                                          {{"a", DType::u8, {4}}, {"none", DType::u8, {0}}, {"b", DType::u8, {2}}});
  ASSERT_TRUE(writer);
  const std::vector<std::byte> bytes(8);
  const auto some = [&](std::size_t n) { return std::span(bytes).first(n); };
  const std::string where = scratch / "m: ";
  EXPECT_EQ(writer->append("b", some(2)).message(),
            where + "tensor 'b': 2 bytes out of turn; tensor 'a' has 0 of 4 bytes");
  ASSERT_TRUE(writer->append("a", some(3)));
  EXPECT_EQ(writer->append("a", some(2)).message(), where + "tensor 'a': 2 bytes after 3, but it has only 4");
  EXPECT_EQ(writer->finish().message(),
            where + "tensor 'a': the file is to be finished, but only 3 of 4 bytes have come");
  ASSERT_TRUE(writer->append("a", some(1)));
  ASSERT_TRUE(writer->append("b", some(2)));
  EXPECT_EQ(writer->append("b", some(1)).message(), where + "tensor 'b': 1 bytes after the last tensor");
  EXPECT_TRUE(writer->finish());
}

}  // namespace
}  // namespace fettle::kit
