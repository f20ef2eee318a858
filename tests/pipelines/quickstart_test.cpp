// SPDX-License-Identifier: Apache-2.0
#include "unit/host/cli/program.h"

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

TEST_F(Quickstart, WritesEveryModelItPromises) {
  for (const char* name : {"dense-Q8_0", "dense-Q4_K_M", "pruned-Q8_0", "pruned-Q4_K_M"})
    EXPECT_GT(fs::file_size(in("out/quickstart/prose-3m-") + name + ".gguf"), 1'000'000U) << name;
}

TEST_F(Quickstart, ComputesNothingTheSecondTime) {
  const Outcome second = fettle(folder_->path(), {"run", "pipelines/quickstart.yaml", "--json"});
  ASSERT_EQ(second.code, 0) << second.err;
  for (const Json& s : Json::parse(second.out).at("steps")) EXPECT_EQ(s.at("state"), "cached") << s.at("name");
}

// Eight bits lose less than four, and dense loses less than pruned: an order that every model shows.
TEST_F(Quickstart, RanksTheFourModelsByWhatTheyLost) {
  const Json run = Json::parse(first_->out);
  const auto kl = [&](const std::string& which) {
    return step(run, "quality[" + which + "]").at("metrics").at("kl").at("value").get<double>();
  };
  EXPECT_LT(kl("dense,Q8_0"), kl("dense,Q4_K_M"));
  EXPECT_LT(kl("dense,Q4_K_M"), kl("pruned,Q8_0"));
  EXPECT_LT(kl("pruned,Q8_0"), kl("pruned,Q4_K_M"));
}

TEST_F(Quickstart, EightBitsAgreeWithTheOriginalAlmostAlways) {
  const Json metrics = step(Json::parse(first_->out), "quality[dense,Q8_0]").at("metrics");
  EXPECT_GE(metrics.at("top1").at("value").get<double>(), 0.97);
  EXPECT_LE(metrics.at("delta_nll").at("value").get<double>(), 0.002);
}

TEST_F(Quickstart, GivesTheSameDigestsWithOneJob) {
  const Outcome one = fettle(
      folder_->path(), {"run", "pipelines/quickstart.yaml", "--json", "--jobs", "1", "--store", in("another-store")});
  ASSERT_EQ(one.code, 0) << one.err;
  const Json a = Json::parse(first_->out), b = Json::parse(one.out);
  ASSERT_EQ(a.at("steps").size(), b.at("steps").size());
  for (const Json& s : a.at("steps")) EXPECT_EQ(s.at("outputs"), step(b, s.at("name")).at("outputs")) << s.at("name");
}

}  // namespace
}  // namespace fettle::test
