// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/train/schedule.h"

#include <gtest/gtest.h>

#include <vector>

namespace fettle::kit {
namespace {

struct ScheduleCase {
  const char* name;
  Schedule schedule;
  std::vector<double> rates;
};

class Rates : public ::testing::TestWithParam<ScheduleCase> {};

TEST_P(Rates, AreThoseOfTheFormula) {
  const auto& c = GetParam();
  for (std::size_t i = 0; i < c.rates.size(); ++i)
    EXPECT_NEAR(c.schedule.rate(static_cast<std::int64_t>(i)), c.rates[i], 1e-12) << "step " << i;
}

INSTANTIATE_TEST_SUITE_P(
    Schedules, Rates,
    ::testing::Values(ScheduleCase{"constant", {Decay::constant, 2, 1, 0, 3}, {2, 2, 2}},
                      ScheduleCase{"constant_after_warm_up", {Decay::constant, 2, 0, 4, 6}, {0.5, 1, 1.5, 2, 2, 2}},
                      ScheduleCase{"linear", {Decay::linear, 4, 0, 0, 5}, {4, 3, 2, 1, 0}},
                      ScheduleCase{"linear_to_a_floor", {Decay::linear, 5, 1, 2, 6}, {2.5, 5, 4, 3, 2, 1}},
                      ScheduleCase{
                          "cosine", {Decay::cosine, 2, 0, 0, 5}, {2, 1.7071067811865475, 1, 0.2928932188134525, 0}},
                      ScheduleCase{"cosine_to_a_floor", {Decay::cosine, 3, 1, 1, 3}, {3, 2, 1}},
                      ScheduleCase{"warm_up_longer_than_the_run", {Decay::cosine, 1, 0, 4, 2}, {0.25, 0.5}},
                      ScheduleCase{"a_single_step", {Decay::cosine, 1, 0, 0, 1}, {1}}),
    [](const auto& c) { return c.param.name; });

TEST(ParseDecay, NamesWhatItKnows) {
  EXPECT_EQ(*parse_decay("cosine"), Decay::cosine);
  EXPECT_EQ(parse_decay("cosin").error().message(), "unknown schedule 'cosin': expected constant, linear or cosine");
}

}  // namespace
}  // namespace fettle::kit
