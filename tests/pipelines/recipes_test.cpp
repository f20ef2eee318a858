// SPDX-License-Identifier: Apache-2.0
#include "unit/host/cli/program.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

namespace fettle::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path source = FETTLE_TEST_SOURCE_DIR;

double metric(const Json& run, const std::string& step, const std::string& name) {
  for (const Json& s : run.at("steps"))
    if (s.at("name") == step) return s.at("metrics").at(name).at("value");
  ADD_FAILURE() << "no step " << step;
  return 0;
}

TEST(Recipes, AreAllGood) {
  const Folder folder;
  for (const auto& entry : fs::directory_iterator(source / "pipelines")) {
    if (entry.path().extension() != ".yaml") continue;
    const Outcome checked = fettle(folder.path(), {"check", entry.path().string()});
    EXPECT_EQ(checked.code, 0) << checked.err;
  }
}

// The update of the remaining weights is worth most where the pattern is tight (Frantar & Alistarh 2023, table 2).
TEST(Recipes, PruneCompareFindsThatSparseGptLosesLeastAtTwoOfFour) {
  const Folder folder;
  const Outcome run = fettle(folder.path(), {"run", (source / "pipelines/prune-compare.yaml").string(), "--json",
                                             "--store", folder / "store", "--set", "vars.length=128"});
  ASSERT_EQ(run.code, 0) << run.err;
  const Json result = Json::parse(run.out);
  const double sparsegpt = metric(result, "by_sparsegpt[2:4]", "kl");
  EXPECT_LT(sparsegpt, metric(result, "by_magnitude[2:4]", "kl"));
  EXPECT_LT(sparsegpt, metric(result, "by_wanda[2:4]", "kl"));
  EXPECT_LT(sparsegpt, metric(result, "by_ria[2:4]", "kl"));
  for (const char* sparsity : {"[half]", "[2:4]"})
    EXPECT_LT(metric(result, std::string("by_refit") + sparsity, "kl"),
              metric(result, std::string("by_wanda") + sparsity, "kl"));
}

TEST(Recipes, FormatSweepSetsSizeAgainstQuality) {
  const Folder folder;
  fs::create_directory_symlink(source / "pipelines", folder / "pipelines");
  fs::create_directory_symlink(source / "docs", folder / "docs");
  const Outcome run = fettle(folder.path(), {"run", "pipelines/format-sweep.yaml", "--json", "--store",
                                             folder / "store", "--set", "vars.length=128"});
  ASSERT_EQ(run.code, 0) << run.err;
  const Json result = Json::parse(run.out);
  const double fp8 = metric(result, "quality[fp8]", "kl");
  for (const char* small : {"gptq", "awq", "nvfp4", "Q4_K_M"}) {
    const std::string name = std::string("quality[") + small + "]";
    EXPECT_GT(metric(result, name, "kl"), fp8) << small;
    EXPECT_LT(metric(result, name, "bytes"), metric(result, "quality[fp8]", "bytes")) << small;
    EXPECT_TRUE(fs::exists(folder / (std::string("out/format-sweep/") + small))) << small;
  }
  const Outcome report = fettle(folder.path(), {"report", "--format", "html", "--store", folder / "store"});
  EXPECT_NE(report.out.find("Size against quality"), std::string::npos) << report.err;
}

TEST(Recipes, MinitronWidthHealsWhatItCut) {
  const Folder folder;
  fs::create_directory_symlink(source / "pipelines", folder / "pipelines");
  fs::create_directory_symlink(source / "docs", folder / "docs");
  const Outcome run = fettle(folder.path(), {"run", "pipelines/minitron-width.yaml", "--json", "--store",
                                             folder / "store", "--set", "vars.length=128", "--set", "vars.epochs=1"});
  ASSERT_EQ(run.code, 0) << run.err;
  const Json result = Json::parse(run.out);
  EXPECT_LE(metric(result, "narrow[searched]", "parameters"), 2.7e6);
  EXPECT_LT(metric(result, "quality_healed", "kl"), metric(result, "quality[searched]", "kl"));
}

TEST(Recipes, MinitronDepthLosesLeastByMeasuredLoss) {
  const Folder folder;
  fs::create_directory_symlink(source / "pipelines", folder / "pipelines");
  fs::create_directory_symlink(source / "docs", folder / "docs");
  const Outcome run = fettle(folder.path(), {"run", "pipelines/minitron-depth.yaml", "--json", "--store",
                                             folder / "store", "--set", "vars.length=128"});
  ASSERT_EQ(run.code, 0) << run.err;
  const Json result = Json::parse(run.out);
  EXPECT_LE(metric(result, "shallow[loss,scattered]", "nll"), metric(result, "shallow[influence,scattered]", "nll"));
}

// Every gate holds, in a few steps: those on size and on what learning is worth are the point of the recipe.
TEST(Recipes, MinitronQ4EndsSmallerThanTheQuantizedOriginal) {
  const Folder folder;
  fs::create_directory_symlink(source / "pipelines", folder / "pipelines");
  const Outcome run = fettle(folder.path(), {"run", "pipelines/minitron-q4.yaml", "--json", "--store", folder / "store",
                                             "--set", "vars.epochs=0.5", "--set", "steps.healed.isolate=true", "--set",
                                             "vars.length=128", "--set", "outputs.model.path=" + folder / "model.gguf",
                                             "--set", "outputs.sample.path=" + folder / "sample.txt"});
  ASSERT_EQ(run.code, 0) << run.err;
  const Json result = Json::parse(run.out);
  EXPECT_LT(metric(result, "quality", "bytes"), 0.8 * metric(result, "whole_quality", "bytes"));
  EXPECT_LT(metric(result, "quality", "kl"), metric(result, "unhealed_quality", "kl"));
  EXPECT_TRUE(fs::exists(folder / "model.gguf"));

  // In a process of its own, so that its peak is that of this step.
  for (const Json& s : result.at("steps"))
    if (s.at("name") == "healed") {
      EXPECT_LT(s.at("peak_memory"), 1.05 * s.at("estimated_memory").get<double>());
      EXPECT_GT(s.at("peak_memory"), 0.70 * s.at("estimated_memory").get<double>());
    }
}

TEST(Recipes, MinitronQ4DoesNotTrainWhatIsCutTooDeep) {
  const Folder folder;
  fs::create_directory_symlink(source / "pipelines", folder / "pipelines");
  const Outcome run =
      fettle(folder.path(), {"run", "pipelines/minitron-q4.yaml", "--json", "--store", folder / "store", "--set",
                             "vars.length=64", "--set", "steps.pruned.gate={require: nll <= nll_before}", "--set",
                             "outputs.model.path=" + folder / "model.gguf"});
  EXPECT_EQ(run.code, 3) << run.err;
  const Json result = Json::parse(run.out);
  for (const Json& s : result.at("steps"))
    if (s.at("name") == "healed") {
      EXPECT_EQ(s.at("state"), "skipped");
    }
  EXPECT_FALSE(fs::exists(folder / "model.gguf"));
}

TEST(Recipes, DistillThenQuantizeLearnsMoreFromTheTeachersOwnBlocks) {
  const Folder folder;
  fs::create_directory_symlink(source / "pipelines", folder / "pipelines");
  const Outcome run =
      fettle(folder.path(), {"run", "pipelines/distill-then-quantize.yaml", "--json", "--store", folder / "store",
                             "--set", "vars.epochs=0.25", "--set", "vars.length=128", "--set", "vars.batch=4", "--set",
                             "outputs.models.path=" + folder / "{instance}.gguf", "--set",
                             "outputs.samples.path=" + folder / "{instance}.txt"});
  ASSERT_EQ(run.code, 0) << run.err;
  const Json result = Json::parse(run.out);
  EXPECT_EQ(metric(result, "quality[teacher]", "bytes"), metric(result, "quality[nothing]", "bytes"));
  EXPECT_LT(metric(result, "quality[teacher]", "kl"), 0.5 * metric(result, "quality[nothing]", "kl"));
  EXPECT_TRUE(fs::exists(folder / "teacher.gguf"));
  EXPECT_TRUE(fs::exists(folder / "nothing.gguf"));
}

// Ids mean something else there, so that probabilities of them cannot be compared.
TEST(Distillation, RefusesATeacherWithAnotherTokenizer) {
  const Folder folder;
  const fs::path model = source / "pipelines/data/prose-3m", other = folder / "other";
  fs::create_directory(other);
  for (const char* name : {"config.json", "model.safetensors"}) fs::create_symlink(model / name, other / name);
  std::string tokenizer = text_of(model / "tokenizer.json");
  for (std::size_t at = 0; (at = tokenizer.find("end_of_text", at)) != std::string::npos; at += 8)
    tokenizer.replace(at, 11, "end_of_book");
  write_text(other / "tokenizer.json", tokenizer);
  fs::create_symlink(model, folder / "base");
  write_text(folder / "pipeline.yaml", R"(fettle: 1
inputs:
  base: {kind: model, path: base}
  other: {kind: model, path: other}
  text: {kind: text, path: other/config.json}
steps:
  data: {use: data.tokens, in: {text: text, tokenizer: base}}
  healed: {use: distill.logits, in: {student: base, teacher: other, data: data}}
)");
  const Outcome checked = fettle(folder.path(), {"check", "pipeline.yaml"});
  EXPECT_EQ(checked.code, 4);
  EXPECT_EQ(
      checked.err,
      R"(pipeline.yaml:8:62: error: step 'healed': input 'teacher' must have the same tokenizer as input 'student': 'other' has sha256:3926e69cfc60..., 'base' has sha256:8578a58bca7a...
  8 |   healed: {use: distill.logits, in: {student: base, teacher: other, data: data}}
    |                                                              ^~~~~
pipeline.yaml:8:47: note: input 'student' is connected here
  8 |   healed: {use: distill.logits, in: {student: base, teacher: other, data: data}}
    |                                               ^~~~
pipeline.yaml:4:3: note: the input 'other'
  4 |   other: {kind: model, path: other}
    |   ^~~~~
)");
}

class Tutorial : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::copy(source / "tests/data/tutorial/first.yaml", folder / "first.yaml");
    fs::create_directory_symlink(source / "pipelines", folder / "pipelines");
  }
  Folder folder;
};

TEST_F(Tutorial, WritesItsModel) {
  const Outcome run = fettle(folder.path(), {"run", "first.yaml"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(fs::exists(folder / "out/first/model.gguf"));
}

TEST_F(Tutorial, WithholdsItsModelWhenTheGateDoesNotHold) {
  const Outcome run = fettle(folder.path(), {"run", "first.yaml", "--set", "vars.type=Q2_K"});
  EXPECT_EQ(run.code, 3) << run.err;
  EXPECT_FALSE(fs::exists(folder / "out/first/model.gguf"));
}

}  // namespace
}  // namespace fettle::test
