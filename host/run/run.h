// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "host/plan/plan.h"
#include "host/store/store.h"

namespace fettle::host {

enum class StepState { waiting, running, done, cached, failed, skipped, cancelled };

/// What happens while a pipeline runs, for displays and logs. Delivered one at a time, in order.
struct RunEvent {
  enum class Kind { started, progress, log, finished } kind = Kind::started;
  std::size_t step = 0;
  StepState state = StepState::waiting;  ///< of finished
  std::string phase;                     ///< of progress
  std::uint64_t done = 0, total = 0;
  int level = 0;                         ///< fettle_log_level, of log
  std::string text;                      ///< of log; the error of a failed step; why one was skipped
  double seconds = 0;
};

struct RunOptions {
  unsigned jobs = 0;         ///< cores for all steps together; 0: all of the machine
  std::uint64_t memory = 0;  ///< bytes for all steps together; 0: 80 % of what the machine has free
  bool keep_going = false;   ///< also start steps that do not depend on a failed one
  std::function<void(const RunEvent&)> on_event;
  /// 0: go on. 1: start nothing more and cancel what runs. 2: leave at once.
  const std::atomic<int>* stop = nullptr;
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

struct RunResult {
  std::vector<StepResult> steps;            ///< as Plan::steps
  std::vector<std::string> outputs_written; ///< paths
  std::vector<std::string> outputs_withheld;
  double seconds = 0;
  bool interrupted = false;
  bool gate_failed = false;
  std::string run_record;  ///< path of the JSON record of this run
};

/// Runs what the plan does not find in the store: ready steps in parallel on TBB, each in an arena of its admitted cores, as
/// memory and cores allow; publishes the outputs (atomically, only if their gates pass); writes the run record.
Result<RunResult> run_plan(Plan& plan, Store& store, const RunOptions& options);

}  // namespace fettle::host
