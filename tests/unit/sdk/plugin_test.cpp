// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace fettle {
namespace {

struct Everything {
  bool flag = true;
  int number = -3;
  double rate = 1.0e-4;
  std::string name = "a \"b\"";
  Count tokens{2'000'000};
  Bytes memory{1024};
  Seconds pause{1.5};
  std::optional<double> maybe;
  std::vector<std::string> list{"x", "y"};
  std::vector<std::pair<std::string, double>> map{{"*.mlp.*", 0.25}};
};

Description<Everything> everything() {
  return Description<Everything>("test.everything", "All parameter types.")
      .param("flag", &Everything::flag, "h")
      .param("number", &Everything::number, "h", in_range(-5, 5))
      .param("rate", &Everything::rate, "h", at_least(0))
      .param("name", &Everything::name, "h", one_of({"a", "b"}))
      .param("tokens", &Everything::tokens, "h")
      .param("memory", &Everything::memory, "h")
      .param("pause", &Everything::pause, "h")
      .param("maybe", &Everything::maybe, "h")
      .param("list", &Everything::list, "h")
      .param("map", &Everything::map, "h");
}

TEST(Description, WritesDefaultsAsYamlText) {
  const auto d = everything();
  const auto t = d.table();
  const char* const expected[] = {"true",  "-3",   "0.0001", "\"a \\\"b\\\"\"", "2000000",
                                  "1024B", "1.5s", nullptr,  "[\"x\", \"y\"]",  "{\"*.mlp.*\": 0.25}"};
  ASSERT_EQ(t.param_count, std::size(expected));
  for (std::uint32_t i = 0; i < t.param_count; ++i)
    EXPECT_STREQ(t.params[i].default_text, expected[i]) << t.params[i].name;
}

TEST(Description, DeclaresTypesShapesAndLimits) {
  const auto d = everything();
  const fettle_param* p = d.table().params;
  EXPECT_EQ(p[1].type, FETTLE_TYPE_INT);
  EXPECT_EQ(p[1].flags, FETTLE_PARAM_HAS_MIN | FETTLE_PARAM_HAS_MAX);
  EXPECT_EQ(p[2].flags, FETTLE_PARAM_HAS_MIN);
  EXPECT_STREQ(p[3].choices[1], "b");
  EXPECT_EQ(p[3].choices[2], nullptr);
  EXPECT_EQ(p[7].flags, FETTLE_PARAM_OPTIONAL);
  EXPECT_EQ(p[8].shape, FETTLE_LIST);
  EXPECT_EQ(p[9].shape, FETTLE_MAP);
  EXPECT_EQ(p[9].type, FETTLE_TYPE_FLOAT);
}

TEST(Description, ReadsValuesIntoTheStruct) {
  fettle_value values[10] = {};
  const fettle_value items[2] = {{FETTLE_TYPE_STRING, 0, 0, 0, "p", nullptr, nullptr},
                                 {FETTLE_TYPE_STRING, 0, 0, 0, "q", nullptr, nullptr}};
  const fettle_value entry = {FETTLE_TYPE_FLOAT, 0, 0, 0.5, nullptr, nullptr, "k"};
  values[1].integer = 4;
  values[2].real = 0.5;
  values[3].text = "b";
  values[7].type = FETTLE_TYPE_NONE;
  values[8] = {FETTLE_TYPE_STRING, 2, 0, 0, nullptr, items, nullptr};
  values[9] = {FETTLE_TYPE_FLOAT, 1, 0, 0, nullptr, &entry, nullptr};
  const Everything e = everything().read(values);
  EXPECT_FALSE(e.flag);
  EXPECT_EQ(e.number, 4);
  EXPECT_EQ(e.rate, 0.5);
  EXPECT_EQ(e.name, "b");
  EXPECT_FALSE(e.maybe.has_value());
  EXPECT_EQ(e.list, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(e.map, (std::vector<std::pair<std::string, double>>{{"k", 0.5}}));
}

enum class Misdeed { none, status, exception, allocation, other };
Misdeed misdeed = Misdeed::none;

struct Misbehaving {
  using Params = NoParams;
  static Description<Params> describe() { return Description<Params>("test.misbehaving", "Fails as told."); }
  static Status run(const Params&, Context&) {
    switch (misdeed) {
      case Misdeed::none:
        return {};
      case Misdeed::status:
        return {Code::corrupt_data, std::string(5000, 'x'), "model"};
      case Misdeed::exception:
        throw std::runtime_error("boom");
      case Misdeed::allocation:
        throw std::bad_alloc();
      case Misdeed::other:
        throw 42;
    }
    return {};
  }
};

struct Outcome {
  std::int32_t code;
  std::string where, message;
};

Outcome run_with(Misdeed how) {
  misdeed = how;
  fettle_host host{};
  host.service = [](const fettle_host*, const char*) -> const void* { return nullptr; };
  fettle_run run{};
  run.host = &host;
  fettle_error error{};
  const std::int32_t code = detail::Adapter<Misbehaving>::table()->run(&run, &error);
  return {code, error.where, error.message};
}

TEST(Trampoline, PassesSuccess) { EXPECT_EQ(run_with(Misdeed::none).code, FETTLE_OK); }

TEST(Trampoline, CutsALongMessageToTheRecord) {
  const Outcome o = run_with(Misdeed::status);
  EXPECT_EQ(o.code, FETTLE_CORRUPT_DATA);
  EXPECT_EQ(o.where, "model");
  EXPECT_EQ(o.message.size(), sizeof(fettle_error::message) - 1);
}

TEST(Trampoline, TurnsAnExceptionIntoAnError) {
  const Outcome o = run_with(Misdeed::exception);
  EXPECT_EQ(o.code, FETTLE_INTERNAL);
  EXPECT_EQ(o.message, "unexpected exception: boom");
}

TEST(Trampoline, TellsExhaustedMemoryApart) { EXPECT_EQ(run_with(Misdeed::allocation).code, FETTLE_OUT_OF_MEMORY); }

TEST(Trampoline, SurvivesWhatIsNoException) {
  EXPECT_EQ(run_with(Misdeed::other).message, "unexpected exception of unknown type");
}

TEST(Library, RefusesAnotherInterfaceVersion) {
  fettle_abi_tag host = detail::abi_tag;
  host.minor = 99;
  fettle_error error{};
  EXPECT_EQ(detail::library<Misbehaving>(&host, &error, "n", "v", "w", "l"), nullptr);
  EXPECT_STREQ(error.message, "this plugin was built for plugin interface 0.1, the host offers 0.99");
}

}  // namespace
}  // namespace fettle
