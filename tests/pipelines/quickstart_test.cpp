// SPDX-License-Identifier: Apache-2.0
#include "unit/host/cli/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// The shipped recipe, copied so that its outputs land in a folder of the test.
class Quickstart : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<Folder>();
    const fs::path shipped = fs::path(FETTLE_TEST_SOURCE_DIR) / "pipelines";
    fs::create_directory(fs::path(folder_->path()) / "pipelines");
    fs::copy(shipped / "quickstart.yaml", *folder_ / "pipelines/quickstart.yaml");
    fs::create_directory_symlink(shipped / "data", *folder_ / "pipelines/data");
    first_ = std::make_unique<Outcome>(fettle(folder_->path(), {"run", "pipelines/quickstart.yaml", "--json"}));
  }
  static void TearDownTestSuite() {
    first_.reset();
    folder_.reset();
  }

  static std::string in(const std::string& name) { return *folder_ / name; }
  static Json step(const Json& run, const std::string& name) {
    for (const Json& s : run.at("steps"))
      if (s.at("name") == name) return s;
    ADD_FAILURE() << "no step " << name;
    return {};
  }

  static std::unique_ptr<Folder> folder_;
  static std::unique_ptr<Outcome> first_;
};

std::unique_ptr<Folder> Quickstart::folder_;
std::unique_ptr<Outcome> Quickstart::first_;

TEST_F(Quickstart, Succeeds) { ASSERT_EQ(first_->code, 0) << first_->err; }

TEST_F(Quickstart, WritesItsModelAndASample) {
  EXPECT_GT(fs::file_size(in("out/quickstart/prose-3m.gguf")), 1'000'000U);
  EXPECT_THAT(text_of(in("out/quickstart/sample.txt")), testing::StartsWith("When the storm had passed, the captain"));
}

TEST_F(Quickstart, ComputesNothingTheSecondTime) {
  const Outcome second = fettle(folder_->path(), {"run", "pipelines/quickstart.yaml", "--json"});
  ASSERT_EQ(second.code, 0) << second.err;
  for (const Json& s : Json::parse(second.out).at("steps")) EXPECT_EQ(s.at("state"), "cached") << s.at("name");
}

// What the demo is there to show: smaller than quantizing alone makes it, far better than pruning alone.
TEST_F(Quickstart, LearningWinsBackMostOfWhatTheCutCost) {
  const Json run = Json::parse(first_->out);
  const auto value = [&](const std::string& which, const char* metric) {
    return step(run, "quality[" + which + "]").at("metrics").at(metric).at("value").get<double>();
  };
  EXPECT_LT(value("healed", "kl"), 0.5 * value("pruned", "kl"));
  EXPECT_LT(value("whole", "kl"), value("healed", "kl"));
  EXPECT_EQ(value("healed", "bytes"), value("pruned", "bytes"));
  EXPECT_LT(value("healed", "bytes"), 0.8 * value("whole", "bytes"));
}

TEST_F(Quickstart, WithholdsItsModelWhenLearningDidNotHelp) {
  const Outcome run =
      fettle(folder_->path(), {"run", "pipelines/quickstart.yaml", "--set", "steps.healed.with={steps: 1, batch: 1}",
                               "--set", "outputs.model.path=" + in("withheld.gguf")});
  EXPECT_EQ(run.code, 3) << run.err;
  EXPECT_FALSE(fs::exists(in("withheld.gguf")));
}

TEST_F(Quickstart, GivesTheSameDigestsWithOneJob) {
  const auto run = [&](const char* jobs) {
    return fettle(folder_->path(),
                  {"run", "pipelines/quickstart.yaml", "--json", "--jobs", jobs, "--store", in("store-of-") + jobs,
                   "--set", "steps.data.with={length: 128, sequences: 64}", "--set",
                   "steps.healed.with={steps: 6, batch: 4}", "--set", "steps.recovered.gate=null"});
  };
  const Outcome one = run("1"), two = run("2");
  ASSERT_EQ(one.code, 0) << one.err;
  ASSERT_EQ(two.code, 0) << two.err;
  const Json a = Json::parse(two.out), b = Json::parse(one.out);
  ASSERT_EQ(a.at("steps").size(), b.at("steps").size());
  for (const Json& s : a.at("steps")) EXPECT_EQ(s.at("outputs"), step(b, s.at("name")).at("outputs")) << s.at("name");
}

}  // namespace
}  // namespace fettle::test
