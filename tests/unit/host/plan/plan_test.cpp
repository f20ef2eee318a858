// SPDX-License-Identifier: Apache-2.0
#include "host/plan/plan.h"

#include "unit/host/plan/test_techniques.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

class MakePlan : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "fettle-plan-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::ofstream(folder_ / "text.txt") << "some text\n";
    std::ofstream(folder_ / "words.txt") << "words\n";
    auto store = Store::open((folder_ / "store").string());
    ASSERT_TRUE(store.ok()) << store.error().message();
    store_.emplace(*std::move(store));
  }
  void TearDown() override {
    store_.reset();
    fs::remove_all(folder_);
  }

  Plan plan(const std::string& steps, bool with_store = true) {
    std::ofstream(folder_ / "p.yaml") << "fettle: 1\ninputs: {corpus: {kind: text, path: text.txt}}\n" << steps;
    Diagnostics diagnostics;
    auto pipeline = std::make_shared<const Pipeline>(load_pipeline((folder_ / "p.yaml").string(), {}, diagnostics));
    Plan made = make_plan(pipeline, test::catalogue(), with_store ? &*store_ : nullptr, diagnostics);
    EXPECT_FALSE(diagnostics.has_errors()) << diagnostics.text();
    return made;
  }
  static std::vector<std::string> names(const Plan& plan) {
    std::vector<std::string> out;
    for (const PlannedStep& s : plan.steps) out.push_back(s.step->name);
    return out;
  }
  /// Does what a run would: gives the step one output file and a record.
  void commit(const PlannedStep& step, const std::string& content) {
    auto begun = store_->begin(step.key, {"text"}, [] { return false; });
    ASSERT_TRUE(begun.ok()) << begun.error().message();
    auto& transaction = std::get<Store::Transaction>(*begun);
    std::ofstream(transaction.staging("text") + "/out.txt") << content;
    Record record;
    record.key = step.key;
    record.technique = "text.count";
    ASSERT_TRUE(transaction.commit(std::move(record), {{"text", "text"}}).ok());
  }

  fs::path folder_;
  std::optional<Store> store_;
};

const char* const chain =
    "steps:\n  second: {use: text.count, in: {text: first}, with: {words: words.txt}}\n"
    "  first: {use: text.count, in: {text: corpus}, with: {words: words.txt, note: a}}\n"
    "outputs: {o: {from: second, path: out.txt}}\n";

TEST_F(MakePlan, OrdersByNeedAndThenByFile) {
  const Plan p = plan(
      "steps:\n  d: {use: text.count, in: {text: b}, with: {words: words.txt}}\n  c: {use: text.count, in: {text: "
      "corpus}, with: {words: words.txt}}\n"
      "  b: {use: text.count, in: {text: corpus}, with: {words: words.txt}, after: c}\n  a: {use: text.count, in: "
      "{text: corpus}, with: {words: words.txt}}\n");
  EXPECT_EQ(names(p), (std::vector<std::string>{"c", "b", "d", "a"}));
  EXPECT_EQ(p.steps[1].waits_for, (std::vector<std::size_t>{0}));
  EXPECT_EQ(p.steps[2].feeds[0].step, 1u);
}

TEST_F(MakePlan, KnowsTheKeyOnlyWhenItKnowsTheInputs) {
  const Plan p = plan(chain);
  EXPECT_EQ(p.steps[0].cache, CacheState::miss);
  EXPECT_EQ(p.steps[0].key.size(), 64u);
  EXPECT_EQ(p.steps[1].cache, CacheState::unknown);
  EXPECT_EQ(p.steps[1].key, "");
  ASSERT_EQ(p.outputs.size(), 1u);
  EXPECT_EQ(p.outputs[0].step, 1u);
  EXPECT_EQ(p.outputs[0].port, "text");
}

TEST_F(MakePlan, FindsFinishedStepsAndStopsTheRerunAtEqualBytes) {
  commit(plan(chain).steps[0], "same");
  const Plan half = plan(chain);
  EXPECT_EQ(half.steps[0].cache, CacheState::hit);
  EXPECT_EQ(half.steps[1].cache, CacheState::miss);
  commit(half.steps[1], "end");
  // Another note gives another first step; its bytes are the same, so the second is still done.
  std::string other = chain;
  other.replace(other.find("note: a"), 7, "note: b");
  const Plan changed = plan(other);
  EXPECT_EQ(changed.steps[0].cache, CacheState::miss);
  commit(changed.steps[0], "same");
  EXPECT_EQ(plan(other).steps[1].cache, CacheState::hit);
}

TEST_F(MakePlan, AFileParameterCountsByContent) {
  const std::string before = plan(chain).steps[0].key;
  fs::copy(folder_ / "words.txt", folder_ / "sub.txt");
  std::ofstream(folder_ / "words.txt") << "other words\n";
  EXPECT_NE(plan(chain).steps[0].key, before);
}

TEST_F(MakePlan, WithoutAStoreNothingHasAKey) {
  const Plan p = plan(chain, false);
  EXPECT_EQ(p.steps[0].cache, CacheState::unknown);
  EXPECT_EQ(p.steps[0].key, "");
}

TEST_F(MakePlan, ResolvesParametersWithDefaultsAndAbsolutePaths) {
  const Plan p = plan(chain);
  const ParamSet& params = p.steps[0].params;
  EXPECT_EQ(params.values()[0].text, (folder_ / "words.txt").string());
  EXPECT_STREQ(params.c_values()[0].text, (folder_ / "words.txt").c_str());
  EXPECT_EQ(params.values()[0].content_digest.substr(0, 7), "sha256:");
  EXPECT_EQ(p.steps[1].params.values()[1].text, "none");
}

TEST_F(MakePlan, AStepWaitsForTheMetricsOfItsGate) {
  const Plan p = plan(
      "steps:\n  a: {use: text.count, in: {text: corpus}, with: {words: words.txt}, gate: {require: 'n < b.n'}}\n"
      "  b: {use: text.count, in: {text: corpus}, with: {words: words.txt, note: b}}\n");
  EXPECT_EQ(names(p), (std::vector<std::string>{"b", "a"}));
}

}  // namespace
}  // namespace fettle::host
