// SPDX-License-Identifier: Apache-2.0
#include "host/report/run_report.h"

#include "host/report/chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

namespace fettle::host {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class RunReportTest : public ::testing::Test {
 protected:
  std::string record(const std::string& json) {
    std::ofstream(path_) << json;
    return path_;
  }
  ~RunReportTest() override { std::filesystem::remove(path_); }
  std::string path_ = ::testing::TempDir() + "run-report-" + std::to_string(::getpid()) + ".json";
};

constexpr const char* kTwoCandidates = R"({
  "fettle_run": 1, "pipeline": {"name": "sweep <1>", "file": "sweep.yaml"}, "seconds": 61.5, "ended": "20261124T040946Z",
  "vars": {"keep": 0.5},
  "steps": [
    {"name": "train", "technique": "train.pretrain", "state": "done", "seconds": 60, "peak_memory": 1048576,
     "series": {"loss": [[1, 7.0], [2, 5.5], [3, "nan"], [4, 4.25]]}, "warnings": ["hot"]},
    {"name": "by_a", "technique": "eval.compare", "state": "cached", "seconds": 0.5,
     "metrics": {"bytes": {"value": 2097152, "unit": "bytes"}, "kl": {"value": 0.5, "standard_error": 0.01}},
     "gates": [{"require": "kl <= 0.4", "measured": "kl = 0.5", "passed": false}]},
    {"name": "by_b", "technique": "eval.compare", "state": "done", "seconds": 0.5,
     "metrics": {"bytes": {"value": 4194304, "unit": "bytes"}, "kl": {"value": 0.25}}},
    {"name": "late", "technique": "eval.compare", "state": "failed", "error": "no luck"}],
  "outputs": [{"name": "m", "path": "/nowhere/m", "state": "written", "reason": "", "bytes": 1536}]})";

TEST_F(RunReportTest, ShowsTheTablesOfARun) {
  const auto report = read_run_report(record(kTwoCandidates));
  ASSERT_TRUE(report.ok()) << report.error().message();
  const std::string text = run_report_text(*report, false);
  EXPECT_THAT(text, HasSubstr("by_a   eval.compare    cached    (500 ms)"));
  EXPECT_THAT(text, HasSubstr("late   eval.compare    failed           -"));
  EXPECT_THAT(text, HasSubstr("by_a          2.00 MiB  0.500 +- 0.010"));
  EXPECT_THAT(text, HasSubstr("loss of train.pretrain  first  least  last\n"));
  EXPECT_THAT(text, HasSubstr("train                       7   4.25  4.25\n"));
  EXPECT_THAT(text, HasSubstr("gate of by_a: not met: kl <= 0.4 (kl = 0.5)"));
  EXPECT_THAT(text, HasSubstr("m       written  1.50 KiB  /nowhere/m"));
  EXPECT_THAT(text, HasSubstr("1 min 02 s in all\n"));
}

TEST_F(RunReportTest, GivesItsTablesAsMarkdown) {
  const auto report = read_run_report(record(kTwoCandidates));
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(run_report_markdown(*report),
            "| eval.compare | bytes | kl |\n|---|---:|---:|\n| by_a | 2.00 MiB | 0.500 \u00b1 0.010 |\n"
            "| by_b | 4.00 MiB | 0.25 |\n\n"
            "| loss of train.pretrain | first | least | last | curve |\n|---|---:|---:|---:|---|\n"
            "| train | 7 | 4.25 | 4.25 | \u2588\u2584\u2581 |\n\n"
            "| step | gate | measured | verdict |\n|---|---|---|---|\n| by_a | `kl <= 0.4` | kl = 0.5 | not met |\n");
}

TEST_F(RunReportTest, DrawsCurvesAndSizeAgainstQualityOnOnePage) {
  const auto report = read_run_report(record(kTwoCandidates));
  ASSERT_TRUE(report.ok());
  const std::string html = run_report_html(*report);
  EXPECT_THAT(html, AllOf(HasSubstr("<h1>sweep &lt;1&gt;</h1>"), HasSubstr("<h2>loss of train.pretrain</h2>"),
                          HasSubstr("<h2>Size against quality</h2>"), HasSubstr("warning of train: hot"),
                          HasSubstr("late: no luck")));
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_EQ(html, run_report_html(*report));
}

TEST_F(RunReportTest, ShowsLossesFirstAndTheHeldOutOneBesideThem) {
  const auto report = read_run_report(record(R"({
    "fettle_run": 1, "steps": [{"name": "trained", "technique": "train.pretrain", "series": {
      "gradient_norm": [[1, 2.0]], "held_out_loss": [[0, 6.5], [64, 5]], "loss": [[1, 7], [32, 5.5], [64, 4]],
      "held_out_share": [[1, 0.5]]}}]})"));
  ASSERT_TRUE(report.ok()) << report.error().message();
  EXPECT_EQ(run_report_markdown(*report),
            "| loss of train.pretrain | first | least | last | curve |\n|---|---:|---:|---:|---|\n"
            "| trained | 7 | 4 | 4 | \u2588\u2585\u2581 |\n"
            "| trained, held out | 6.5 | 5 | 5 | \u2588\u2581 |\n");
  const std::string html = run_report_html(*report);
  const std::size_t loss = html.find("<h2>loss of train.pretrain</h2>"), norm = html.find("<h2>gradient_norm of");
  ASSERT_NE(loss, std::string::npos);
  EXPECT_LT(loss, norm);
  EXPECT_EQ(html.find("<h2>held_out_loss"), std::string::npos);
  EXPECT_THAT(html, HasSubstr("<h2>held_out_share of train.pretrain</h2>"));  // there is no share to go with
  EXPECT_LT(html.find("<title>trained, held out</title>"), norm);
}

TEST_F(RunReportTest, RefusesWhatIsNoRecord) {
  const auto report = read_run_report(record("{\"fettle_run\": 2}"));
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().message(),
            path_ +
                ": no record of a run that this version reads: found fettle_run 2, expected 1; give a file of "
                "STORE/runs");
}

TEST_F(RunReportTest, ReadsARecordWhoseMembersHaveOtherTypes) {
  const auto report = read_run_report(record(
      R"({"fettle_run": 1, "steps": [7, {"metrics": 3, "series": {"loss": [1, [2]]}, "in": "x", "outputs": [[]]}],
          "pipeline": [], "outputs": {"a": {}}, "vars": null})"));
  ASSERT_TRUE(report.ok()) << report.error().message();
  EXPECT_EQ(report->steps.size(), 2u);
  EXPECT_FALSE(run_report_html(*report).empty());
}

TEST(LineChart, SurvivesPointsThatAreNoNumbers) {
  EXPECT_EQ(line_chart({{"a", {{0, NAN}}}}), "<p>no finite points</p>\n");
  EXPECT_THAT(line_chart({{"a", {{0, 1e308}, {1, -1e308}}}}), HasSubstr("<svg"));
}

TEST(ParetoChart, JoinsWhatNothingBeats) {
  const std::string svg = pareto_chart({{"good", 1, 1}, {"beaten", 2, 2}, {"big", 3, 0.5}}, "MiB", "KL");
  const std::string front = svg.substr(svg.find("class=\"front\""));
  const std::string path = front.substr(0, front.find("/>"));
  EXPECT_EQ(std::count(path.begin(), path.end(), 'L'), 1);
}

}  // namespace
}  // namespace fettle::host
