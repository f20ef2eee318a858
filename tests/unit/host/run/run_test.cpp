// SPDX-License-Identifier: Apache-2.0
#include "host/run/run.h"

#include "fettle_kit/io/sha256.h"

#include "host/run/worker.h"
#include "unit/host/run/techniques.h"
#include "unit/host/store/temporary_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

RunResult run_file(const std::string& file, const std::string& store_path, const RunOptions& options,
                   std::vector<std::string>& names) {
  Diagnostics diagnostics;
  auto pipeline = std::make_shared<const Pipeline>(load_pipeline(file, {}, diagnostics));
  EXPECT_FALSE(diagnostics.has_errors()) << diagnostics.text();
  Store store = *Store::open(store_path);
  Plan plan = make_plan(pipeline, test::catalogue(), &store, diagnostics, {.cores = options.jobs});
  EXPECT_FALSE(diagnostics.has_errors()) << diagnostics.text();
  if (diagnostics.has_errors()) return {};
  names.clear();
  for (const PlannedStep& step : plan.steps) names.push_back(step.step->name);
  auto result = run_plan(plan, store, options);
  EXPECT_TRUE(result.ok()) << result.error().message();
  return result.ok() ? *std::move(result) : RunResult{};
}

class RunTest : public testing::Test {
 protected:
  TemporaryFolder folder;
  RunOptions options;
  std::vector<std::string> said;  ///< log and finished events
  std::atomic<bool> waiting{false};

  RunTest() {
    test::executions = 0;
    options.jobs = 2;
    options.on_event = [this](const RunEvent& event) {
      if (event.kind == RunEvent::Kind::log) said.push_back(event.text);
      if (event.kind == RunEvent::Kind::progress && event.phase == "waiting") waiting = true;
    };
  }

  /// Loads, plans and runs a pipeline whose steps are given as YAML, two spaces deep.
  RunResult run(const std::string& steps, const std::string& rest = "") {
    write_file(folder / "pipeline.yaml", "fettle: 1\nname: test\n" + rest + "steps:\n" + steps);
    return run_file(folder / "pipeline.yaml", folder / "store", options, names);
  }
  /// Starts this program once more on a pipeline, because TBB's threads do not survive a fork.
  pid_t run_in_child(const std::string& steps, const std::string& mode) {
    write_file(folder / "child.yaml", "fettle: 1\nname: test\nsteps:\n" + steps);
    const std::string file = folder / "child.yaml", store = folder / "store";
    const pid_t child = ::fork();
    if (child == 0) {
      ::execl("/proc/self/exe", "test_unit_host_run", mode.c_str(), file.c_str(), store.c_str(), nullptr);
      ::_exit(127);
    }
    return child;
  }
  std::vector<std::string> names;
  const StepResult& step(const RunResult& result, const std::string& name) const {
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) return result.steps[i];
    ADD_FAILURE() << "no step " << name;
    return result.steps[0];
  }
  std::string content(const RunResult& result, const std::string& name) const {
    const auto& record = step(result, name).record;
    if (!record) return "no record";
    const Store store = *Store::open(folder / "store");
    const Artifact& artifact = record->outputs.at(0).second;
    return text_of(*store.path_of(artifact) + "/" + artifact.files.at(0).path);
  }
  Status error_of(const std::string& how, const std::string& more = "") {
    const RunResult result = run("  bad: {use: test.misbehave, with: {how: " + how + "}" + more + "}\n");
    EXPECT_EQ(step(result, "bad").state, StepState::failed);
    return step(result, "bad").error;
  }
};

TEST_F(RunTest, RunsStepsInTheOrderOfTheirInputs) {
  const RunResult result =
      run("  c: {use: test.join, in: {files: [b, a]}}\n"
          "  a: {use: test.write, with: {text: one}}\n"
          "  b: {use: test.join, in: {files: [a, a]}}\n");
  EXPECT_EQ(content(result, "c"), "oneoneone");
  EXPECT_EQ(step(result, "c").state, StepState::done);
  EXPECT_EQ(step(result, "a").record->metrics.at("bytes").value, 3);
  EXPECT_EQ(step(result, "a").record->metrics.at("bytes").standard_error, 0.5);
  EXPECT_EQ(step(result, "a").record->metrics.at("bytes").unit, "bytes");
  EXPECT_EQ(step(result, "a").record->series.at("curve").points.size(), 1u);
}

TEST_F(RunTest, TakesEverythingFromTheStoreTheSecondTime) {
  const std::string steps =
      "  a: {use: test.write, with: {text: one}}\n"
      "  b: {use: test.join, in: {files: [a]}}\n";
  run(steps);
  EXPECT_EQ(test::executions, 2);
  const RunResult again = run(steps);
  EXPECT_EQ(test::executions, 2);
  EXPECT_EQ(step(again, "b").state, StepState::cached);
  EXPECT_EQ(content(again, "b"), "one");
}

TEST_F(RunTest, StopsRerunningWhereTheBytesAreTheSame) {
  run("  a: {use: test.write, with: {text: one}}\n  b: {use: test.join, in: {files: [a]}}\n");
  const RunResult again =
      run("  a: {use: test.join, in: {files: [c]}}\n  c: {use: test.write, with: {text: one}}\n"
          "  b: {use: test.join, in: {files: [a]}}\n");
  EXPECT_EQ(test::executions, 2) << "c is the old a, a is the old b, and b joins the same bytes once more";
  EXPECT_EQ(step(again, "b").state, StepState::cached);
}

TEST_F(RunTest, ComputesTwoStepsOfOneKeyOnce) {
  const RunResult result =
      run("  a: {use: test.write, with: {text: one}}\n  b: {use: test.write, with: {text: one}}\n");
  EXPECT_EQ(test::executions, 1);
  EXPECT_EQ(step(result, "a").record->key, step(result, "b").record->key);
}

TEST_F(RunTest, GivesTheSameDigestsForAnyNumberOfJobs) {
  std::string steps;
  for (int i = 0; i < 6; ++i)
    steps += "  s" + std::to_string(i) + ": {use: test.sum, with: {items: " + std::to_string(50'000 + i) + "}}\n";
  steps += "  all: {use: test.join, in: {files: [s0, s1, s2, s3, s4, s5]}}\n";
  std::vector<std::string> digests;
  for (const unsigned jobs : {1u, 2u, 5u}) {
    options.jobs = jobs;
    (void)remove_tree(folder / "store");
    digests.push_back(step(run(steps), "all").record->outputs[0].second.digest);
  }
  EXPECT_EQ(digests[0], digests[1]);
  EXPECT_EQ(digests[0], digests[2]);
}

// ---- cores and memory ----

TEST_F(RunTest, GivesAStepThatIsAloneAllCores) {
  options.jobs = 3;
  const RunResult result = run("  a: {use: test.sum}\n");
  EXPECT_EQ(step(result, "a").record->metrics.at("threads").value, 3);
  EXPECT_EQ(step(result, "a").record->metrics.at("arena").value, 3);
}

TEST_F(RunTest, SharesCoresAmongReadySteps) {
  options.jobs = 5;
  const RunResult result = run("  a: {use: test.sum, with: {items: 1}}\n  b: {use: test.sum, with: {items: 2}}\n");
  EXPECT_EQ(step(result, "a").record->metrics.at("threads").value, 2);
  EXPECT_EQ(step(result, "b").record->metrics.at("threads").value, 3);
}

// A long step that was started beside a short one would else keep its share when the short one has long ended.
TEST_F(RunTest, LetsStepsUseCoresThatOthersLeaveIdle) {
  options.jobs = 5;
  const RunResult result = run("  a: {use: test.sum, with: {items: 1}}\n  b: {use: test.sum, with: {items: 2}}\n");
  EXPECT_EQ(step(result, "a").record->metrics.at("arena").value, 5);
  EXPECT_EQ(step(result, "b").record->metrics.at("arena").value, 5);
}

TEST_F(RunTest, GivesAStepTheCoresItAsksFor) {
  options.jobs = 4;
  const RunResult result =
      run("  a: {use: test.sum, resources: {cores: 2}}\n  b: {use: test.sum, seed: 1, resources: {cores: 4}}\n");
  EXPECT_EQ(step(result, "a").record->metrics.at("threads").value, 2);
  EXPECT_EQ(step(result, "a").record->metrics.at("arena").value, 2);
  EXPECT_EQ(step(result, "b").record->metrics.at("threads").value, 4);
}

TEST_F(RunTest, RunsIndependentStepsAtTheSameTime) {
  options.jobs = 3;
  const RunResult result =
      run("  a: {use: test.together, with: {name: a, others: 3}}\n"
          "  b: {use: test.together, with: {name: b, others: 3}}\n"
          "  c: {use: test.together, with: {name: c, others: 3}}\n");
  EXPECT_EQ(step(result, "c").record->metrics.at("most").value, 3);
}

TEST_F(RunTest, AdmitsStepsByMemory) {
  options.jobs = 3;
  options.memory = 10 << 20;
  const RunResult result =
      run("  a: {use: test.together, with: {name: a, memory: 6MiB}}\n"
          "  b: {use: test.together, with: {name: b, memory: 6MiB}}\n"
          "  c: {use: test.together, with: {name: c, memory: 6MiB}}\n");
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(step(result, name).record->metrics.at("most").value, 1) << name;
  EXPECT_THAT(said, IsEmpty());
}

TEST_F(RunTest, RunsAStepAboveTheMemoryLimitAloneAndSaysSo) {
  options.memory = 10 << 20;
  const RunResult result = run("  a: {use: test.together, with: {name: a, memory: 64MiB}}\n");
  EXPECT_EQ(step(result, "a").state, StepState::done);
  EXPECT_THAT(said, ElementsAre("needs 67,108,864 bytes of memory, the limit is 10,485,760: runs alone"));
}

// ---- failure ----

TEST_F(RunTest, ReportsWhatATechniqueSays) {
  const Status error = error_of("error");
  EXPECT_EQ(error.code(), Code::unsupported);
  EXPECT_EQ(error.where(), "group");
  EXPECT_EQ(error.message(), "block 3 has width 100, expected a multiple of 32");
}

TEST_F(RunTest, SurvivesExceptions) {
  EXPECT_EQ(error_of("throw").message(), "unexpected exception: boom");
  EXPECT_EQ(error_of("memory").code(), Code::out_of_memory);
}

TEST_F(RunTest, RefusesAStatusThatIsNone) {
  const RunResult result = run("  bad: {use: test.raw, with: {how: x}}\n");
  EXPECT_EQ(step(result, "bad").error.message(), "the plugin returned 77, which is not a status");
}

TEST_F(RunTest, RefusesAnOutputThatWasNotWritten) {
  EXPECT_EQ(error_of("empty").message(), "output 'file': nothing was written to it");
}

TEST_F(RunTest, RefusesAnOutputThatTheStoreCannotTake) {
  EXPECT_EQ(error_of("dangling").message(), "output 'file': 'link': is a link that leads nowhere");
}

TEST_F(RunTest, CallsAnUnaskedCancellationAFailure) {
  EXPECT_EQ(error_of("cancelled").message(), "the technique says it was cancelled, but nobody asked for that");
}

TEST_F(RunTest, KeepsNothingOfAFailedStep) {
  EXPECT_EQ(error_of("half").code(), Code::io);
  EXPECT_TRUE(fs::is_empty(folder / "store/objects"));
  EXPECT_TRUE(fs::is_empty(folder / "store/records"));
  EXPECT_TRUE(fs::is_empty(folder / "store/staging"));
}

TEST_F(RunTest, SkipsWhatNeedsAFailedStepAndRunsTheRest) {
  const RunResult result =
      run("  bad:   {use: test.misbehave, with: {how: error}}\n"
          "  next:  {use: test.join, in: {files: [bad]}}\n"
          "  last:  {use: test.join, in: {files: [next]}}\n"
          "  other: {use: test.write, with: {text: x}, after: [free]}\n"
          "  free:  {use: test.write, with: {text: y}}\n");
  EXPECT_EQ(step(result, "next").reason, "needs 'bad', which failed");
  EXPECT_EQ(step(result, "last").state, StepState::skipped);
  EXPECT_EQ(step(result, "last").reason, "needs 'next', which was skipped: needs 'bad', which failed");
  EXPECT_EQ(step(result, "other").state, StepState::done);
}

TEST_F(RunTest, StartsNothingMoreAfterAFailureIfAskedTo) {
  options.keep_going = false;
  options.jobs = 1;
  const RunResult result =
      run("  bad:  {use: test.misbehave, with: {how: error}}\n"
          "  free: {use: test.write, with: {text: y}}\n"
          "  more: {use: test.join, in: {files: [free]}}\n");
  EXPECT_EQ(step(result, "more").state, StepState::skipped);
  EXPECT_EQ(step(result, "more").reason, "not started after 'bad' failed");
  EXPECT_FALSE(result.interrupted);
}

TEST_F(RunTest, KeepsWarningsInTheRecord) {
  const RunResult result = run("  a: {use: test.write, with: {text: warn}}\n");
  EXPECT_THAT(step(result, "a").record->warnings, ElementsAre("a warning"));
  EXPECT_THAT(said, ElementsAre("a warning"));
}

// ---- gates and conditions ----

TEST_F(RunTest, SkipsAStepWhoseConditionIsFalseAndWhatNeedsIt) {
  const RunResult result =
      run("  a: {use: test.write, with: {text: one}}\n"
          "  b: {use: test.join, in: {files: [a]}, when: a.bytes > 3}\n"
          "  c: {use: test.join, in: {files: [b]}}\n"
          "  d: {use: test.join, in: {files: [a]}, when: a.bytes == 3}\n");
  EXPECT_EQ(step(result, "b").state, StepState::skipped);
  EXPECT_EQ(step(result, "b").reason, "'when: a.bytes > 3' is false: a.bytes = 3");
  EXPECT_EQ(step(result, "c").reason, "needs 'b', which was skipped: 'when: a.bytes > 3' is false: a.bytes = 3");
  EXPECT_EQ(step(result, "d").state, StepState::done);
}

TEST_F(RunTest, StopsBehindAGateThatDoesNotHold) {
  const std::string steps =
      "  a: {use: test.write, with: {text: one}, gate: {require: bytes <= 2, because: it must be short}}\n"
      "  b: {use: test.join, in: {files: [a]}}\n"
      "  c: {use: test.write, with: {text: x}}\n";
  for (const StepState expected : {StepState::done, StepState::cached}) {
    said.clear();
    const RunResult result = run(steps);
    EXPECT_EQ(step(result, "a").state, expected);
    EXPECT_TRUE(result.gate_failed);
    ASSERT_EQ(step(result, "a").gates.size(), 1u);
    EXPECT_EQ(step(result, "a").gates[0].measured, "bytes = 3");
    EXPECT_FALSE(step(result, "a").gates[0].passed);
    EXPECT_EQ(step(result, "b").reason, "needs 'a', whose gate 'bytes <= 2' does not hold");
    EXPECT_EQ(step(result, "c").state, expected);
    EXPECT_THAT(said, ElementsAre("gate 'bytes <= 2' does not hold: bytes = 3: it must be short"));
  }
}

TEST_F(RunTest, GoesOnBehindAGateThatOnlyFailsOrWarns) {
  const RunResult failing =
      run("  a: {use: test.write, with: {text: one}, gate: {require: bytes <= 2, on_fail: fail}}\n"
          "  b: {use: test.join, in: {files: [a]}}\n");
  EXPECT_TRUE(failing.gate_failed);
  EXPECT_EQ(step(failing, "b").state, StepState::done);
  const RunResult warning =
      run("  a: {use: test.write, with: {text: one}, gate: {require: bytes <= 2, on_fail: warn}}\n"
          "  b: {use: test.join, in: {files: [a]}}\n");
  EXPECT_FALSE(warning.gate_failed);
  EXPECT_EQ(step(warning, "b").state, StepState::cached);
}

TEST_F(RunTest, DoesNotPassAGateWhoseMetricIsMissing) {
  const RunResult result = run("  a: {use: test.write, with: {text: one}, gate: {require: ppl <= 2}}\n");
  EXPECT_TRUE(result.gate_failed);
  EXPECT_FALSE(step(result, "a").gates.at(0).passed);
  EXPECT_THAT(step(result, "a").gates.at(0).measured, HasSubstr("ppl"));
}

// ---- outputs ----

TEST_F(RunTest, PublishesAFileAndAFolder) {
  const RunResult result = run("  a: {use: test.write, with: {text: one}}\n",
                               "outputs:\n  f: {from: a, path: out/deep/a.txt}\n  d: {from: a, path: out/a}\n");
  EXPECT_THAT(result.outputs_written, UnorderedElementsAre(folder / "out/deep/a.txt", folder / "out/a"));
  EXPECT_EQ(text_of(folder / "out/deep/a.txt"), "one");
  EXPECT_EQ(text_of(folder / "out/a/text.txt"), "one");
}

TEST_F(RunTest, LeavesAnOutputThatIsThereAlreadyUntouched) {
  const std::string outputs = "outputs:\n  f: {from: a, path: a.txt}\n  d: {from: a, path: out}\n";
  run("  a: {use: test.write, with: {text: one}}\n", outputs);
  const auto file = fs::last_write_time(folder / "a.txt"), in_folder = fs::last_write_time(folder / "out/text.txt");
  RunResult result = run("  a: {use: test.write, with: {text: one}}\n", outputs);
  EXPECT_EQ(result.outputs.at(0).state, OutputResult::State::unchanged);
  EXPECT_EQ(result.outputs.at(1).state, OutputResult::State::unchanged);
  EXPECT_EQ(fs::last_write_time(folder / "a.txt"), file);
  EXPECT_EQ(fs::last_write_time(folder / "out/text.txt"), in_folder);
  result = run("  a: {use: test.write, with: {text: two}}\n", outputs);
  EXPECT_EQ(result.outputs.at(0).state, OutputResult::State::written);
  EXPECT_EQ(text_of(folder / "a.txt"), "two");
  EXPECT_EQ(text_of(folder / "out/text.txt"), "two");
}

TEST_F(RunTest, RemovesWhatAKilledRunLeftBesideTheOutputs) {
  const std::string outputs = "outputs:\n  f: {from: a, path: out/a.txt}\n  d: {from: a, path: out/d}\n";
  for (int i = 0; i < 2; ++i) {  // written, then unchanged
    write_file(folder / "out/.a.txt.fettle-new", "ha");
    write_file(folder / "out/.d.fettle-new/text.txt", "ha");
    run("  a: {use: test.write, with: {text: one}}\n", outputs);
    EXPECT_FALSE(fs::exists(folder / "out/.a.txt.fettle-new"));
    EXPECT_FALSE(fs::exists(folder / "out/.d.fettle-new"));
  }
}

TEST_F(RunTest, PublishedFilesAreTheUsersToChange) {
  const std::string outputs = "outputs:\n  f: {from: a, path: a.txt}\n";
  run("  a: {use: test.write, with: {text: one}}\n", outputs);
  write_file(folder / "a.txt", "edited");
  const RunResult result = run("  a: {use: test.write, with: {text: one}}\n", outputs);
  EXPECT_EQ(step(result, "a").state, StepState::cached);
  EXPECT_EQ(text_of(folder / "a.txt"), "one");
}

TEST_F(RunTest, NeverReplacesAFolderThatHoldsFilesOfTheUser) {
  write_file(folder / "out/notes.txt", "mine");
  const RunResult result = run("  a: {use: test.write, with: {text: one}}\n", "outputs:\n  d: {from: a, path: out}\n");
  EXPECT_EQ(result.outputs.at(0).state, OutputResult::State::failed);
  EXPECT_EQ(result.outputs.at(0).reason,
            "output 'd': '" + (folder / "out") +
                "': the folder holds 'notes.txt', which is not part of the output; remove it, "
                "or choose another path");
  EXPECT_EQ(text_of(folder / "out/notes.txt"), "mine");
}

TEST_F(RunTest, ExplainsAPathThatDoesNotSuitTheOutput) {
  const RunResult result =
      run("  a: {use: test.write, with: {text: one}}\n", "outputs:\n  f: {from: a, path: a.gguf}\n");
  EXPECT_EQ(result.outputs.at(0).reason, "output 'f': '" + (folder / "a.gguf") +
                                             "': the path names a '.gguf' file, but the output is 'text.txt'; use that "
                                             "extension, or end the path with '/' for a folder");
}

TEST_F(RunTest, WithholdsOutputsWhenAGateDoesNotHold) {
  const RunResult result =
      run("  a: {use: test.write, with: {text: one}}\n"
          "  check: {use: test.join, in: {files: [a]}, gate: {require: bytes > 3, on_fail: fail}}\n",
          "outputs:\n  gated: {from: a, path: gated.txt}\n  any: {from: a, path: any.txt, when_gates: any}\n");
  EXPECT_FALSE(fs::exists(folder / "gated.txt"));
  EXPECT_TRUE(fs::exists(folder / "any.txt"));
  EXPECT_THAT(result.outputs_withheld, ElementsAre(folder / "gated.txt"));
  EXPECT_EQ(result.outputs.at(0).reason, "gate 'bytes > 3' of 'check' does not hold: bytes = 3");
}

TEST_F(RunTest, WithholdsOutputsWhenAGateWasNotReached) {
  const RunResult result =
      run("  a: {use: test.write, with: {text: one}}\n"
          "  bad: {use: test.misbehave, with: {how: error}, gate: {require: bytes > 3}}\n",
          "outputs:\n  gated: {from: a, path: gated.txt}\n  b: {from: bad, path: b.txt}\n");
  EXPECT_EQ(result.outputs.at(0).reason, "the gate of 'bad' was not reached");
  EXPECT_EQ(result.outputs.at(1).reason, "step 'bad' failed");
  EXPECT_FALSE(fs::exists(folder / "gated.txt"));
}

// ---- interruption ----

TEST_F(RunTest, CancelsAndContinuesFromTheCheckpoint) {
  std::atomic<int> stop{0};
  options.stop = &stop;
  const std::string steps = "  w: {use: test.wait, with: {until: " + (folder / "go") + "}}\n" +
                            "  next: {use: test.join, in: {files: [w]}}\n";
  std::thread interrupter([&] {
    while (!waiting) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop = 1;
  });
  const RunResult stopped = run(steps, "outputs:\n  o: {from: next, path: o.txt}\n");
  interrupter.join();
  EXPECT_TRUE(stopped.interrupted);
  EXPECT_EQ(step(stopped, "w").state, StepState::cancelled);
  EXPECT_EQ(step(stopped, "next").state, StepState::cancelled);
  EXPECT_EQ(step(stopped, "next").reason, "interrupted");
  EXPECT_EQ(stopped.outputs.at(0).reason, "interrupted");
  EXPECT_THAT(text_of(stopped.run_record), HasSubstr("\"interrupted\": true"));

  stop = 0;
  write_file(folder / "go", "");
  EXPECT_EQ(content(run(steps), "next"), "started;started;");
}

TEST_F(RunTest, LeavesAtOnceWhenToldTwice) {
  const pid_t child = run_in_child(
      "  w: {use: test.wait, with: {until: " + (folder / "never") + "}}\noutputs:\n  o: {from: w, path: o.txt}\n",
      "leave");
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  const std::string record = text_of(folder / "store/runs/latest");
  EXPECT_THAT(record, HasSubstr("\"interrupted\": true"));
  EXPECT_THAT(record, HasSubstr("\"reason\": \"interrupted\""));  // of the output
}

TEST_F(RunTest, TwoProcessesOnOnePipelineComputeEachStepOnce) {
  const std::string steps = "  w: {use: test.wait, with: {until: " + (folder / "go") + "}}\n" +
                            "  next: {use: test.join, in: {files: [w]}}\n";
  const pid_t child = run_in_child(steps, "run");
  while (!fs::exists(folder / "store/checkpoints") || fs::is_empty(folder / "store/checkpoints"))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::thread starter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    write_file(folder / "go", "");
  });
  const RunResult result = run(steps);
  starter.join();
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(test::executions + WEXITSTATUS(status), 2);
  EXPECT_EQ(content(result, "next"), "started;");
}

// ---- the record of the run ----

TEST_F(RunTest, WritesDownWhatHappened) {
  const RunResult result =
      run("  a: {use: test.write, with: {text: warn}, gate: {require: bytes <= 4}}\n"
          "  bad: {use: test.misbehave, with: {how: error}}\n",
          "vars:\n  x: {type: int, default: 3}\noutputs:\n  o: {from: a, path: o.txt, when_gates: any}\n");
  EXPECT_EQ(fs::canonical(folder / "store/runs/latest"), fs::canonical(result.run_record));
  const auto json = nlohmann::json::parse(text_of(result.run_record));
  EXPECT_EQ(json["pipeline"]["name"], "test");
  EXPECT_EQ(json["pipeline"]["digest"], "sha256:" + kit::sha256_hex(text_of(folder / "pipeline.yaml")));
  EXPECT_EQ(json["vars"]["x"], "3");
  EXPECT_EQ(json["machine"]["cores"].get<unsigned>() > 0, true);
  const auto& a = json["steps"][names[0] == "a" ? 0 : 1];
  EXPECT_EQ(a["state"], "done");
  EXPECT_EQ(a["key"], step(result, "a").record->key);
  EXPECT_EQ(a["plugin"], "sha256:test");
  EXPECT_EQ(a["numerics"], "portable");
  EXPECT_EQ(a["metrics"]["bytes"]["value"], 4.0);
  EXPECT_EQ(a["metrics"]["bytes"]["standard_error"], 0.5);
  EXPECT_EQ(a["warnings"][0], "a warning");
  EXPECT_EQ(a["gates"][0]["passed"], true);
  EXPECT_GT(a["peak_memory"].get<std::uint64_t>(), 0u);
  EXPECT_EQ(json["steps"][names[0] == "a" ? 1 : 0]["error"], "block 3 has width 100, expected a multiple of 32");
  EXPECT_EQ(json["outputs"][0]["state"], "written");
}

// ---- the conformance of executors ----

class ExecutorTest : public RunTest, public testing::WithParamInterface<bool> {
 protected:
  std::string isolate() const { return GetParam() ? ", isolate: true" : ""; }
};

TEST_P(ExecutorTest, PassesEverythingToTheStepAndBack) {
  const RunResult result =
      run("  a: {use: test.write, with: {text: \"wa\\u00e9rn \\\"x\\\"\", name: \"n \\\\ m.txt\"}" + isolate() + "}\n" +
          "  w: {use: test.write, with: {text: warn}" + isolate() + "}\n" +
          "  b: {use: test.join, in: {files: [a, w]}" + isolate() + "}\n");
  EXPECT_EQ(content(result, "b"), "wa\u00e9rn \"x\"warn");
  EXPECT_EQ(step(result, "a").record->outputs[0].second.files[0].path, "n \\ m.txt");
  EXPECT_EQ(step(result, "w").record->metrics.at("bytes").value, 4);
  EXPECT_EQ(step(result, "w").record->metrics.at("bytes").standard_error, 0.5);
  EXPECT_FALSE(step(result, "b").record->metrics.at("bytes").standard_error);
  EXPECT_EQ(step(result, "w").record->series.at("curve").points.size(), 1u);
  EXPECT_THAT(step(result, "w").record->warnings, ElementsAre("a warning"));
  EXPECT_GT(step(result, "w").record->peak_memory, 0u);
  EXPECT_EQ(test::executions, GetParam() ? 0 : 3);
}

TEST_P(ExecutorTest, GivesTheSameResult) {
  const RunResult result = run("  s: {use: test.sum" + isolate() + "}\n");
  const RunResult plain = run("  s: {use: test.sum}\n");
  EXPECT_EQ(step(plain, "s").state, StepState::cached) << "how a step runs is not part of its key";
  EXPECT_EQ(step(result, "s").record->metrics.at("threads").value, 2);
  EXPECT_EQ(step(result, "s").record->metrics.at("arena").value, 2);
}

TEST_P(ExecutorTest, PassesOnTheError) {
  const Status error = error_of("error", isolate());
  EXPECT_EQ(error.code(), Code::unsupported);
  EXPECT_EQ(error.where(), "group");
  EXPECT_EQ(error.message(), "block 3 has width 100, expected a multiple of 32");
}

TEST_P(ExecutorTest, CancelsAStep) {
  std::atomic<int> stop{0};
  options.stop = &stop;
  std::thread interrupter([&] {
    while (!waiting) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop = 1;
  });
  const RunResult stopped = run("  w: {use: test.wait, with: {until: " + (folder / "never") + "}" + isolate() + "}\n");
  interrupter.join();
  EXPECT_EQ(step(stopped, "w").state, StepState::cancelled);
  EXPECT_FALSE(fs::is_empty(folder / "store/checkpoints"));
}

INSTANTIATE_TEST_SUITE_P(Executors, ExecutorTest, testing::Bool(),
                         [](const auto& row) { return row.param ? "process" : "in_process"; });

TEST_F(RunTest, ACrashOfAnIsolatedStepFailsOnlyThatStep) {
  const RunResult result =
      run("  bad:   {use: test.misbehave, with: {how: crash}, isolate: true}\n"
          "  quits: {use: test.misbehave, with: {how: exit}, isolate: true}\n"
          "  other: {use: test.write, with: {text: x}}\n");
  EXPECT_EQ(step(result, "bad").state, StepState::failed);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  // The sanitizer turns the signal into an exit of its own.
  EXPECT_THAT(step(result, "bad").error.message(), HasSubstr("and without a result"));
#else
  EXPECT_EQ(step(result, "bad").error.message(), "its process was killed by SIGSEGV (Segmentation fault)");
#endif
  EXPECT_EQ(step(result, "quits").error.message(), "its process ended with 3 and without a result");
  EXPECT_EQ(step(result, "other").state, StepState::done);
}

TEST_F(RunTest, SaysThatAWorkerCannotBeStarted) {
  options.worker_program = "/nowhere/fettle";
  EXPECT_EQ(error_of("error", ", isolate: true").message(), "cannot start '/nowhere/fettle worker'");
}

TEST(Worker, RefusesToBeStartedByHand) { EXPECT_EQ(worker_main("request.json", "99"), 2); }

/// What a child of a test does: run a pipeline; "leave": as if the user had interrupted twice. Returns the executions.
int child_main(const std::string& mode, const std::string& file, const std::string& store) {
  std::atomic<int> stop{0};
  RunOptions options;
  options.jobs = 2;
  options.stop = &stop;
  options.on_event = [&](const RunEvent& event) {
    if (mode == "leave" && event.kind == RunEvent::Kind::progress) stop = 2;
  };
  std::vector<std::string> names;
  run_file(file, store, options, names);
  return test::executions;
}

}  // namespace
}  // namespace fettle::host

/// The test program is its own worker.
int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "worker")
    return fettle::host::worker_main(argv[2], argv[3],
                                     [](const std::string&, const std::string&,
                                        const std::string& id) -> fettle::Result<const fettle::host::Technique*> {
                                       return fettle::host::test::find_technique(id);
                                     });
  if (argc == 4 && argv[1][0] != '-') return fettle::host::child_main(argv[1], argv[2], argv[3]);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
