// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/plan/plan.h"
#include "host/store/store.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace fettle::host {

/// All an executor may know of a step: resolved values and paths, nothing of the pipeline. Owns what it holds but the
/// technique, which lives as long as the program.
struct StepJob {
  struct Input {
    std::string port, kind, path, digest;
    Attributes attributes;
  };
  const Technique* technique = nullptr;
  const ParamSet* params = nullptr;                          ///< of the plan
  std::vector<Input> inputs;                                 ///< in the order of the ports
  std::vector<std::pair<std::string, std::string>> outputs;  ///< port, empty folder
  std::uint64_t seed = 0;
  std::uint64_t memory_budget = 0;  ///< bytes
  unsigned threads = 1;
  std::string scratch, checkpoint;
};

/// What a running step tells and asks. [any thread, all members]
class StepListener {
 public:
  virtual ~StepListener() = default;
  virtual void log(int level, const std::string& text) = 0;
  virtual void progress(const std::string& phase, std::uint64_t done, std::uint64_t total) = 0;
  virtual bool cancelled() = 0;
  virtual void metric(const std::string& name, const Metric& metric) = 0;
  virtual void point(const std::string& series, double x, double y) = 0;
  virtual void peak_memory(std::uint64_t bytes) = 0;  ///< of the process that did the work, so far
};

/// Runs the work of one step somewhere that sees the store, and returns when it has ended. What an executor says of
/// success is only a hint: the step is done when its record is in the store, and that the caller writes.
class Executor {
 public:
  virtual ~Executor() = default;
  /// Called inside a TBB arena of job.threads. Returns how the technique ended; cancelled, if it stopped because the
  /// listener said so. Several steps may run at once.
  virtual Status run(const StepJob& job, StepListener& listener) = 0;
};

/// Calls the technique in this process.
std::unique_ptr<Executor> in_process_executor();
/// Runs `program worker` for each step (host/run/worker.h): a crash there fails the step and not the run.
std::unique_ptr<Executor> process_executor(std::string program);

}  // namespace fettle::host
