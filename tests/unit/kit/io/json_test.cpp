// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/io/json.h"

#include "unit/kit/io/scratch_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace fettle::kit {
namespace {

struct BadJsonCase {
  const char* name;
  std::string text;
  std::string message;
};

class BadJson : public ::testing::TestWithParam<BadJsonCase> {};

TEST_P(BadJson, IsRefusedWithPosition) {
  JsonLimits limits;
  limits.max_depth = 3;
  limits.max_bytes = 100;
  const auto json = parse_json(GetParam().text, "config.json", limits);
  ASSERT_FALSE(json);
  EXPECT_EQ(json.error().message(), GetParam().message);
  EXPECT_EQ(json.error().code(), Code::corrupt_data);
}

INSTANTIATE_TEST_SUITE_P(
    Rows, BadJson,
    ::testing::Values(
        BadJsonCase{
            "empty", "",
            "config.json:1:1: invalid JSON: syntax error while parsing value - unexpected end of input; expected "
            "'[', '{', or a literal"},
        BadJsonCase{"second_line", "{\n  \"a\": x\n}",
                    "config.json:2:8: invalid JSON: syntax error while parsing value - invalid literal; last read: "
                    "'\"a\": x'"},
        BadJsonCase{"columns_count_characters", "{\"\xc3\xa4\": x}",
                    "config.json:1:7: invalid JSON: syntax error while parsing value - invalid literal; last read: "
                    "'\"??\": x'"},
        BadJsonCase{"trailing_text", "{} 7",
                    "config.json:1:4: invalid JSON: syntax error while parsing value - unexpected number literal; "
                    "expected end of input"},
        BadJsonCase{"trailing_comma", "[1,]",
                    "config.json:1:4: invalid JSON: syntax error while parsing value - unexpected ']'; expected '[', "
                    "'{', or a literal"},
        BadJsonCase{"duplicate_key", "{\"a\": 1,\n \"b\": {\"a\": 2}, \"a\": 3}",
                    "config.json:2:17: key 'a' is here a second time; keep one"},
        BadJsonCase{"duplicate_of_another_spelling", R"({"a\"": 1, "a\u0022": 2})",
                    "config.json:1:12: key 'a\"' is here a second time; keep one"},
        BadJsonCase{"too_deep", "[[[\n[1]]]]", "config.json:2:1: nested deeper than 3 levels"},
        BadJsonCase{"too_large", std::string(101, ' '), "config.json: 101 bytes of JSON, expected at most 100"},
        BadJsonCase{
            "invalid_utf8", "[\"\xc3(\"]",
            "config.json:1:4: invalid JSON: syntax error while parsing value - invalid string: ill-formed UTF-8 "
            "byte; last read: '\"?('"},
        BadJsonCase{"infinity", "[Infinity]",
                    "config.json:1:2: invalid JSON: syntax error while parsing value - invalid literal; last read: "
                    "'[I'"},
        BadJsonCase{"number_overflow", "[1e999]", "config.json:1:6: invalid JSON: number overflow parsing '1e999'"}),
    [](const auto& test) { return test.param.name; });

TEST(Json, DeepNestingWithinTheLimitIsRead) {
  const std::string text = std::string(128, '[') + std::string(128, ']');
  EXPECT_TRUE(parse_json(text, "x"));
  EXPECT_FALSE(parse_json("[" + text + "]", "x"));
}

TEST(Json, KeepsTheOrderOfKeysAndLargeIntegers) {
  const std::string text = R"({"z":18446744073709551615,"a":-9223372036854775808,"m":[1.5,true,null,"\u00e4"]})";
  const auto json = parse_json(text, "x");
  ASSERT_TRUE(json) << json.error().message();
  EXPECT_EQ(json->dump(), "{\"z\":18446744073709551615,\"a\":-9223372036854775808,\"m\":[1.5,true,null,\"\xc3\xa4\"]}");
}

TEST(Json, ReadsObjectsOfManyKeysInLinearTime) {
  std::string text = "{\"k\":0";
  for (int i = 0; i < 200'000; ++i) text += ",\"k" + std::to_string(i) + "\":" + std::to_string(i);
  const auto json = parse_json(text + "}", "x");  // quadratic time would be minutes
  ASSERT_TRUE(json);
  EXPECT_EQ(json->size(), 200'001u);
}

TEST(Json, FilesAreReadAndWritten) {
  const test::ScratchFolder scratch;
  const Json json = {{"b", 1}, {"a", {1, 2}}};
  ASSERT_TRUE(write_json_file(scratch / "x.json", json));
  EXPECT_EQ(scratch.read("x.json"), "{\n  \"b\": 1,\n  \"a\": [\n    1,\n    2\n  ]\n}\n");
  const auto again = read_json_file(scratch / "x.json");
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, json);
}

TEST(Json, StringsThatAreNotUtf8CannotBeWritten) {
  const test::ScratchFolder scratch;
  const Status status = write_json_file(scratch / "x.json", Json{{"a", "\xff"}});
  EXPECT_EQ(status.message(), scratch / "x.json: a string in this JSON is not valid UTF-8");
  EXPECT_EQ(status.code(), Code::invalid_argument);
}

}  // namespace
}  // namespace fettle::kit
