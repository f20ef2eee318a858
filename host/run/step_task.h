// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/plan/plan.h"
#include "host/run/executor.h"
#include "host/run/run.h"
#include "host/store/store.h"

#include <functional>
#include <mutex>
#include <string>

namespace fettle::host {

/// What is fixed about a step once its inputs are there.
struct StepTask {
  const PlannedStep* planned = nullptr;
  std::vector<Artifact> inputs;  ///< as planned->feeds
  StepKey key;
  unsigned threads = 1;
  std::uint64_t memory_budget = 0;
};

struct StepOutcome {
  StepState state = StepState::failed;  ///< done, cached (someone else made it meanwhile), failed or cancelled
  std::optional<Record> record;
  Status error;
};

/// Takes the step's lease, runs it through the executor, and commits what it made. Called inside the step's arena.
/// `say` receives log and progress events from any thread; `cancelled` is polled from any thread.
StepOutcome run_step(const StepTask& task, const Store& store, Executor& executor,
                     const std::function<void(RunEvent)>& say, const std::function<bool()>& cancelled);

}  // namespace fettle::host
