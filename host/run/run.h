// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/plan/plan.h"
#include "host/store/store.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fettle::host {

enum class StepState { waiting, running, done, cached, failed, skipped, cancelled };

/// What happens while a pipeline runs, for displays and logs. Delivered one at a time, in order.
struct RunEvent {
  enum class Kind { started, progress, log, finished } kind = Kind::started;
  std::size_t step = 0;
  StepState state = StepState::waiting;  ///< of finished
  std::string phase;                     ///< of progress
  std::uint64_t done = 0, total = 0;
  int level = 0;     ///< fettle_log_level, of log
  std::string text;  ///< of log; the error of a failed step; why one was skipped
  double seconds = 0;
  unsigned threads = 0;  ///< cores admitted, of started
};

struct RunOptions {
  unsigned jobs = 0;         ///< cores for all steps together; 0: all of the machine
  std::uint64_t memory = 0;  ///< bytes for all steps together; 0: 80 % of what the machine has free
  bool keep_going = true;    ///< after a failure, also start steps that do not depend on it; what runs always finishes
  std::function<void(const RunEvent&)> on_event;
  /// 0: go on. 1: start nothing more and cancel what runs, then return with `interrupted`. 2: write the run record and
  /// end the process with 130, because a step that does not look at cancelled() cannot be stopped otherwise.
  const std::atomic<int>* stop = nullptr;
  /// The program whose `worker` verb runs isolated steps; "": this one.
  std::string worker_program;
};

struct GateResult {
  std::string text;      ///< the expression
  std::string measured;  ///< "ppl = 31.2, before.ppl = 29.4"
  bool passed = false;
  GateAction on_fail = GateAction::stop;
};

struct StepResult {
  StepState state = StepState::waiting;
  std::optional<Record> record;
  Status error;        ///< of a failed step
  std::string reason;  ///< why skipped or cancelled
  std::vector<GateResult> gates;
};

struct OutputResult {
  enum class State { written, unchanged, withheld, failed } state = State::withheld;
  std::string name, path;
  std::string reason;  ///< why withheld or failed
};

struct RunResult {
  std::vector<StepResult> steps;             ///< as Plan::steps
  std::vector<OutputResult> outputs;         ///< as Plan::outputs; a failed one counts like a failed step
  std::vector<std::string> outputs_written;  ///< paths; also of those that were there already
  std::vector<std::string> outputs_withheld;
  double seconds = 0;
  bool interrupted = false;
  bool gate_failed = false;  ///< a gate with on_fail stop or fail
  std::string run_record;    ///< path of the JSON record of this run
};

/// Runs what is not in the store: ready steps in parallel on TBB, each in an arena of its admitted cores, as memory and
/// cores allow; publishes the outputs (atomically, only if their gates pass); writes the run record.
///
/// Cores: a step gets an equal share of those that are free among the steps that are ready, never more than its
/// estimate or `resources.cores` says; alone it gets all. Memory: the estimates of running steps sum to at most the
/// limit; a step above the limit runs alone, with a warning. Each key is looked up as soon as its inputs are known, so
/// a step that was made anew with the same bytes stops the work there.
///
/// Outputs with `when_gates: pass` wait for every gate of the pipeline (but on_fail: warn). An error means that the run
/// itself could not be carried out; failed steps are in the result. One run_plan at a time in a process.
Result<RunResult> run_plan(Plan& plan, Store& store, const RunOptions& options);

}  // namespace fettle::host
