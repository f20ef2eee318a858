// SPDX-License-Identifier: Apache-2.0
#include "host/cli/carry_out.h"

#include "host/cli/run_display.h"
#include "host/log/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <csignal>

namespace fettle::host {
namespace {

std::atomic<int> stop_requests{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int) {
  static constexpr char first[] = "\nstopping: no new steps, the running ones are cancelled; once more ends at once\n";
  if (stop_requests.fetch_add(1) == 0) {
    const ssize_t ignored = ::write(2, first, sizeof first - 1);
    static_cast<void>(ignored);
  }
}

/// While it lives, SIGINT and SIGTERM count in stop_requests.
class SignalWatch {
 public:
  SignalWatch() {
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(SIGINT, &action, &old_int_);
    ::sigaction(SIGTERM, &action, &old_term_);
  }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  ~SignalWatch() {
    ::sigaction(SIGINT, &old_int_, nullptr);
    ::sigaction(SIGTERM, &old_term_, nullptr);
  }

 private:
  struct sigaction old_int_ {
  }, old_term_{};
};

}  // namespace

Result<RunResult> carry_out(Prepared& prepared, const Options& options, bool keep_going) {
  const SignalWatch watch;
  RunDisplay display(prepared.plan, terminal_of(2, options.color), options.quiet, options.verbose);
  RunOptions run;
  run.jobs = options.jobs;
  run.memory = options.memory;
  run.keep_going = keep_going;
  run.stop = &stop_requests;
  run.on_event = [&](const RunEvent& event) { display.show(event); };
  return run_plan(prepared.plan, *prepared.store, run);
}

void repeat_complaints(const Plan& plan, const RunResult& result) {
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const std::string& name = plan.steps[i].step->name;
    const StepResult& step = result.steps[i];
    if (step.record)
      for (const std::string& warning : step.record->warnings)
        log(LogLevel::warning, fmt::format("step '{}': {}", name, warning));
    if (!step.error.ok()) {
      const std::string& where = step.error.where();
      log(LogLevel::error,
          fmt::format("step '{}': {}{}", name, where.empty() ? "" : "'" + where + "': ", step.error.message()));
    }
  }
  for (const OutputResult& output : result.outputs)
    if (output.state == OutputResult::State::failed) log(LogLevel::error, output.reason);
}

int exit_code_of(const RunResult& result) {
  if (result.interrupted) return exit_interrupted;
  for (const StepResult& s : result.steps)
    if (s.state == StepState::failed) return exit_step_failed;
  for (const OutputResult& o : result.outputs)
    if (o.state == OutputResult::State::failed) return exit_step_failed;
  return result.gate_failed ? exit_gate_failed : exit_done;
}

}  // namespace fettle::host
