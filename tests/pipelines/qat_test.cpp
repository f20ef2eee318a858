// SPDX-License-Identifier: Apache-2.0
// The recipe that trains a model for its file, for a few steps.
#include "unit/host/cli/program.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class QatQ40 : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory_symlink(fs::path(FETTLE_TEST_SOURCE_DIR) / "pipelines", folder_ / "pipelines");
    fs::create_directory_symlink(fs::path(FETTLE_TEST_SOURCE_DIR) / "docs", folder_ / "docs");
  }

  /// Runs the recipe in the folder; returns its record.
  Json run(const std::string& steps, const std::string& rate) {
    const Outcome outcome =
        fettle(folder_.path(),
               {"run", "pipelines/qat-q4_0.yaml", "--json", "--store", folder_ / "store", "--set", "vars.length=128",
                "--set", "vars.steps=" + steps, "--set", "vars.lr=" + rate, "--set",
                "outputs.trained.path=" + folder_ / "trained", "--set", "outputs.plain.path=" + folder_ / "plain"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Json::parse(outcome.out);
  }
  static Json step(const Json& run, const std::string& name) {
    for (const Json& s : run.at("steps"))
      if (s.at("name") == name) return s;
    ADD_FAILURE() << "no step " << name;
    return {};
  }
  static double kl(const Json& run, const std::string& file) {
    return step(run, "quality[" + file + "]").at("metrics").at("kl").at("value");
  }
  bool published(const std::string& name) const { return fs::exists(folder_ / name + "/model.gguf"); }

  Folder folder_;
};

TEST_F(QatQ40, PublishesTheTrainedFileWhereTrainingHelped) {
  const Json result = run("24", "1.0e-4");
  EXPECT_LT(kl(result, "trained"), kl(result, "plain"));
  EXPECT_TRUE(published("trained"));
  EXPECT_FALSE(published("plain"));
  EXPECT_EQ(step(result, "best_trained").at("state"), "cached") << "the same file as before";
}

TEST_F(QatQ40, PublishesThePlainFileWhereItDidNot) {
  const Json result = run("3", "0.05");
  EXPECT_GT(kl(result, "trained"), kl(result, "plain"));
  EXPECT_TRUE(published("plain"));
  EXPECT_FALSE(published("trained"));
}

}  // namespace
}  // namespace fettle::test
