// SPDX-License-Identifier: Apache-2.0
#include "plugins/harness.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace fettle::test {
namespace {

const std::string repeat = "../tests/plugins-c11/test_repeat";
const std::string failing = "../tests/plugins-failing/test_failing";

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(CPlugin, RunsEndToEnd) {
  const StepResult result = Step(repeat, "test.repeat").param("line", "hay").param("times", 2).run();
  ASSERT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(text_of(result.outputs.at("text") + "/lines.txt"), "hay\nhay\n");
  EXPECT_EQ(result.value("lines"), 2);
  EXPECT_EQ(result.progress.back().done, 2u);
}

TEST(CPlugin, EstimatesItsOutput) {
  const StepResult result = Step(repeat, "test.repeat").param("line", "hay").param("times", 10).estimate();
  ASSERT_TRUE(result.ok()) << result.message;
  EXPECT_EQ(result.estimate.disk_bytes, 40u);
}

TEST(CPlugin, ReportsABadParameter) {
  const StepResult result = Step(repeat, "test.repeat").param("line", "").validate();
  EXPECT_EQ(result.code, FETTLE_INVALID_ARGUMENT);
  EXPECT_EQ(result.where, "line");
  EXPECT_EQ(result.message, "is empty, expected some text to repeat");
}

TEST(CPlugin, StopsWhenCancelled) {
  EXPECT_EQ(Step(repeat, "test.repeat").param("line", "hay").cancel_at_poll(2).run().code, FETTLE_CANCELLED);
}

struct FailureCase {
  const char* name;
  const char* technique;
  int code;
  const char* where;
  const char* message;
};

class FailingTechnique : public ::testing::TestWithParam<FailureCase> {};

TEST_P(FailingTechnique, BecomesAnErrorOfTheStep) {
  const auto& c = GetParam();
  const StepResult result = Step(failing, c.technique).run();
  EXPECT_EQ(result.code, c.code);
  EXPECT_EQ(result.where, c.where);
  EXPECT_EQ(result.message, c.message);
}

INSTANTIATE_TEST_SUITE_P(Ways, FailingTechnique,
                         ::testing::Values(FailureCase{"exception", "test.throws", FETTLE_INTERNAL, "",
                                                       "unexpected exception: the frobnicator is jammed"},
                                           FailureCase{"int", "test.throws_int", FETTLE_INTERNAL, "",
                                                       "unexpected exception of unknown type"},
                                           FailureCase{"bad_alloc", "test.out_of_memory", FETTLE_OUT_OF_MEMORY, "",
                                                       "out of memory"},
                                           FailureCase{"error", "test.returns_error", FETTLE_UNSUPPORTED, "moon",
                                                       "the moon is full, expected new moon; wait two weeks"}),
                         [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace fettle::test
