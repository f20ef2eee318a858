// SPDX-License-Identifier: Apache-2.0
// The recipe that trains a model from scratch, for a few steps.
#include "unit/host/cli/program.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>
#include <vector>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path source = FETTLE_TEST_SOURCE_DIR;

/// `fettle run` of the recipe on text that every checkout has, publishing into `folder`.
std::vector<std::string> pretrain(const Folder& folder, const std::string& store,
                                  const std::vector<std::string>& changes) {
  std::vector<std::string> arguments{"run", (source / "pipelines/pretrain-prose.yaml").string(), "--json", "--store",
                                     folder / store};
  std::vector<std::string> all{"vars.corpus=" + (source / "pipelines/data/books.txt").string(),
                               "vars.batch=8",
                               "vars.length=64",
                               "steps.trained.with.evaluate_every=0",
                               "outputs.model.path=" + folder / "model",
                               "outputs.sample.path=" + folder / "sample.txt"};
  all.insert(all.end(), changes.begin(), changes.end());
  for (const std::string& change : all) arguments.insert(arguments.end(), {"--set", change});
  return arguments;
}

Json step_of(const std::string& record, const std::string& name) {
  const Json run = Json::parse(record);
  for (const Json& step : run.at("steps"))
    if (step.at("name") == name) return step;
  ADD_FAILURE() << "no step " << name;
  return {};
}

TEST(PretrainProse, LearnsInAFewSteps) {
  const Folder folder;
  const Outcome run = fettle(folder.path(), pretrain(folder, "store", {"vars.steps=10", "steps.trained.isolate=true"}));
  ASSERT_EQ(run.code, 0) << run.err;
  const Json trained = step_of(run.out, "trained");
  const double first = trained.at("metrics").at("held_out_first").at("value");
  EXPECT_NEAR(first, std::log(1024), 0.1) << "random weights guess";
  EXPECT_LT(trained.at("metrics").at("held_out_loss").at("value"), first - 0.3);
  EXPECT_TRUE(fs::exists(folder / "model/tokenizer.json"));

  // In a process of its own, so that its peak is that of this step: measured within -5 and +30 % of the estimate.
  const double estimated = trained.at("estimated_memory"), peak = trained.at("peak_memory");
  EXPECT_LT(peak, 1.05 * estimated);
  EXPECT_GT(peak, 0.70 * estimated);
}

TEST(PretrainProse, EndsWithTheSameModelWhenItIsKilled) {
  const Folder folder;
  const std::vector<std::string> changes{"vars.steps=12", "steps.trained.with.save_every=1"};
  const Outcome whole = fettle(folder.path(), pretrain(folder, "undisturbed", changes));
  ASSERT_EQ(whole.code, 0) << whole.err;

  const auto saved = [&] {
    std::error_code none;
    for (fs::recursive_directory_iterator it(folder / "killed/checkpoints", none), end; !none && it != end;
         it.increment(none))
      if (it->path().filename() == "state.safetensors") return true;
    return false;
  };
  for (const int milliseconds : {0, 200, 500}) {
    Program run(folder.path(), pretrain(folder, "killed", changes));
    for (int i = 0; i < 3000 && !saved(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    run.signal(SIGKILL);
    (void)run.wait();
  }
  const Outcome resumed = fettle(folder.path(), pretrain(folder, "killed", changes));
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(step_of(resumed.out, "trained").at("outputs"), step_of(whole.out, "trained").at("outputs"));
  EXPECT_EQ(step_of(resumed.out, "trained").at("series"), step_of(whole.out, "trained").at("series"));
}

}  // namespace
}  // namespace fettle::test
