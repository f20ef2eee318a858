// SPDX-License-Identifier: Apache-2.0
#include "host/run/run.h"

#include "host/run/executor.h"
#include "host/run/machine.h"
#include "host/run/publish.h"
#include "host/run/run_record.h"
#include "host/run/step_task.h"
#include "host/store/durable.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <set>

namespace fettle::host {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// The ready list: decides what may start, starts it, and takes in what has ended. All members but post() belong to the
/// thread that called run_plan; TBB's threads do the work and only post().
class Scheduler {
 public:
  Scheduler(Plan& plan, Store& store, const RunOptions& options)
      : plan_(plan),
        store_(store),
        options_(options),
        jobs_(options.jobs ? options.jobs : this_machine().cores),
        memory_limit_(options.memory ? options.memory : available_memory() / 10 * 8),
        in_process_(in_process_executor()),
        process_(process_executor(options.worker_program)),
        running_(plan.steps.size()),
        open_dependencies_(plan.steps.size()),
        dependents_(plan.steps.size()) {
    result_.steps.resize(plan.steps.size());
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
      open_dependencies_[i] = plan.steps[i].waits_for.size();
      for (const std::size_t before : plan.steps[i].waits_for) dependents_[before].push_back(i);
      if (open_dependencies_[i] == 0) settled_.push_back(i);
    }
  }

  Result<RunResult> run();

 private:
  struct Running {
    std::unique_ptr<tbb::task_arena> arena;
    StepTask task;
    std::uint64_t memory = 0;
    Clock::time_point begin;
  };

  int stop() const { return options_.stop ? options_.stop->load(std::memory_order_relaxed) : 0; }
  const std::string& name(std::size_t i) const { return plan_.steps[i].step->name; }
  bool succeeded(std::size_t i) const {
    return result_.steps[i].state == StepState::done || result_.steps[i].state == StepState::cached;
  }

  void say(RunEvent event);
  void warn(std::size_t i, std::string text);
  void settle(std::size_t i);
  std::string why_not(std::size_t i) const;
  Status gather_inputs(std::size_t i);
  void start_what_fits();
  bool try_start(std::size_t i, std::size_t ready);
  void post(std::size_t i, StepOutcome outcome);
  void finish(std::size_t i, StepState state, Status error, std::string reason, double seconds);
  std::optional<double> metric(std::size_t self, const Expression::MetricRef& ref) const;
  void check_gates(std::size_t i);
  const GateResult* broken_gate(std::size_t i) const;
  std::string why_withheld(const PlannedOutput& output) const;
  void publish_outputs();
  Status write_record();

  Plan& plan_;
  Store& store_;
  const RunOptions& options_;
  const unsigned jobs_;
  const std::uint64_t memory_limit_;
  const std::unique_ptr<Executor> in_process_, process_;
  const Clock::time_point begin_ = Clock::now();
  RunResult result_;

  std::vector<Running> running_;  ///< by step
  std::vector<std::size_t> open_dependencies_;
  std::vector<std::vector<std::size_t>> dependents_;
  std::deque<std::size_t> settled_;  ///< whose dependencies have all ended, not looked at yet
  std::set<std::size_t> ready_;      ///< which only wait for room; in the order of the plan
  std::set<std::string> running_keys_;
  std::set<std::size_t> not_wanted_;  ///< skipped because `when` is false
  std::size_t running_count_ = 0;
  unsigned used_cores_ = 0;
  std::uint64_t used_memory_ = 0;
  std::string failed_;  ///< the first step that failed

  std::mutex event_mutex_;
  std::mutex ended_mutex_;
  std::condition_variable ended_changed_;
  std::deque<std::pair<std::size_t, StepOutcome>> ended_;
};

void Scheduler::say(RunEvent event) {
  if (!options_.on_event) return;
  const std::lock_guard lock(event_mutex_);
  options_.on_event(event);
}

void Scheduler::warn(std::size_t i, std::string text) {
  RunEvent event;
  event.kind = RunEvent::Kind::log;
  event.step = i;
  event.level = FETTLE_LOG_WARNING;
  event.text = std::move(text);
  say(std::move(event));
}

std::optional<double> Scheduler::metric(std::size_t self, const Expression::MetricRef& ref) const {
  std::size_t i = self;
  if (!ref.step.empty())
    for (i = 0; i < plan_.steps.size() && name(i) != ref.step;) ++i;
  if (i == plan_.steps.size() || !result_.steps[i].record) return std::nullopt;
  const auto& metrics = result_.steps[i].record->metrics;
  const auto found = metrics.find(ref.metric);
  if (found == metrics.end()) return std::nullopt;
  return ref.standard_error ? found->second.standard_error : found->second.value;
}

const GateResult* Scheduler::broken_gate(std::size_t i) const {
  for (const GateResult& gate : result_.steps[i].gates)
    if (!gate.passed && gate.on_fail != GateAction::warn) return &gate;
  return nullptr;
}

void Scheduler::check_gates(std::size_t i) {
  const auto lookup = [&](const Expression::MetricRef& ref) { return metric(i, ref); };
  for (const Gate& gate : plan_.steps[i].step->gates) {
    const auto value = gate.require.evaluate(lookup);
    GateResult result{gate.require.text(), gate.require.explain(lookup), false, gate.on_fail};
    if (const auto* answer = std::get_if<Expression::Value>(&value))
      result.passed = std::holds_alternative<bool>(*answer) && std::get<bool>(*answer);
    else
      result.measured = std::get<std::string>(value);
    if (!result.passed) {
      warn(i, fmt::format("gate '{}' does not hold: {}{}{}", result.text, result.measured,
                          gate.because.empty() ? "" : ": ", gate.because));
      result_.gate_failed |= gate.on_fail != GateAction::warn;
    }
    result_.steps[i].gates.push_back(std::move(result));
  }
}

/// Why a step whose dependencies have ended cannot run, or "".
std::string Scheduler::why_not(std::size_t i) const {
  for (const std::size_t before : plan_.steps[i].waits_for) {
    const StepResult& step = result_.steps[before];
    if (step.state == StepState::failed) return fmt::format("needs '{}', which failed", name(before));
    if (step.state == StepState::skipped)
      return fmt::format("needs '{}', which was skipped: {}", name(before), step.reason);
    if (step.state == StepState::cancelled) return fmt::format("needs '{}', which was cancelled", name(before));
    if (const GateResult* gate = broken_gate(before); gate && gate->on_fail == GateAction::stop)
      return fmt::format("needs '{}', whose gate '{}' does not hold", name(before), gate->text);
  }
  return {};
}

Status Scheduler::gather_inputs(std::size_t i) {
  const PlannedStep& planned = plan_.steps[i];
  StepTask& task = running_[i].task;
  task.planned = &planned;
  std::vector<std::pair<std::string, std::string>> digests;
  for (const Feed& feed : planned.feeds) {
    const Artifact* artifact = nullptr;
    if (feed.input) artifact = &plan_.inputs[*feed.input].artifact;
    if (feed.step)
      for (const auto& [port, output] : result_.steps[*feed.step].record->outputs)
        if (port == feed.output) artifact = &output;
    if (!artifact)
      return {Code::not_found,
              fmt::format("input '{}': step '{}' gave no '{}'", feed.port, name(*feed.step), feed.output)};
    task.inputs.push_back(*artifact);
    digests.emplace_back(feed.port, artifact->digest);
  }
  task.key = step_key(*planned.technique, planned.params, digests, planned.step->seed);
  return {};
}

/// All a step waits for has ended: skip it, take it from the store, or make it ready.
void Scheduler::settle(std::size_t i) {
  if (std::string reason = why_not(i); !reason.empty()) return finish(i, StepState::skipped, {}, std::move(reason), 0);
  if (!failed_.empty() && !options_.keep_going)
    return finish(i, StepState::skipped, {}, fmt::format("not started after '{}' failed", failed_), 0);
  if (const auto& when = plan_.steps[i].step->when) {
    const auto lookup = [&](const Expression::MetricRef& ref) { return metric(i, ref); };
    const auto value = when->evaluate(lookup);
    if (const auto* problem = std::get_if<std::string>(&value))
      return finish(i, StepState::failed, {Code::invalid_argument, fmt::format("when: {}", *problem)}, {}, 0);
    const auto& answer = std::get<Expression::Value>(value);
    if (!std::holds_alternative<bool>(answer) || !std::get<bool>(answer)) {
      const std::string measured = when->explain(lookup);
      not_wanted_.insert(i);
      return finish(i, StepState::skipped, {},
                    fmt::format("'when: {}' is false{}{}", when->text(), measured.empty() ? "" : ": ", measured), 0);
    }
  }
  const auto begin = Clock::now();
  if (Status status = gather_inputs(i); !status) return finish(i, StepState::failed, std::move(status), {}, 0);
  if (auto record = store_.find(running_[i].task.key.key)) {
    result_.steps[i].record = std::move(record);
    return finish(i, StepState::cached, {}, {}, seconds_since(begin));
  }
  ready_.insert(i);
}

void Scheduler::start_what_fits() {
  std::size_t left = ready_.size();
  for (auto it = ready_.begin(); it != ready_.end() && used_cores_ < jobs_; --left) {
    const std::size_t i = *it;
    it = try_start(i, left) ? ready_.erase(it) : std::next(it);
  }
}

/// False: not now. `ready` steps share the free cores.
bool Scheduler::try_start(std::size_t i, std::size_t ready) {
  const PlannedStep& planned = plan_.steps[i];
  Running& running = running_[i];
  if (running_keys_.contains(running.task.key.key)) return false;  // then it will be a hit

  const unsigned free = jobs_ - used_cores_;
  unsigned cores = std::max(1u, free / static_cast<unsigned>(ready));
  if (planned.estimate.max_threads) cores = std::min(cores, planned.estimate.max_threads);
  if (planned.step->resources.cores) cores = std::clamp(*planned.step->resources.cores, 1u, jobs_);
  if (cores > free) return false;

  const std::uint64_t memory = planned.step->resources.memory.value_or(planned.estimate.memory_bytes);
  if (running_count_ > 0 && (used_memory_ > memory_limit_ || memory > memory_limit_ - used_memory_)) return false;
  if (const Status space = store_.check_space(planned.estimate.disk_bytes); !space) {
    finish(i, StepState::failed, space, {}, 0);
    return true;
  }
  if (memory > memory_limit_)
    warn(i,
         fmt::format("needs {} bytes of memory, the limit is {}: runs alone", grouped(memory), grouped(memory_limit_)));

  running.task.threads = cores;
  running.task.memory_budget = memory ? memory : memory_limit_ / jobs_ * cores;
  running.memory = memory;
  running.begin = Clock::now();
  used_cores_ += cores;
  used_memory_ += memory;
  ++running_count_;
  running_keys_.insert(running.task.key.key);
  result_.steps[i].state = StepState::running;
  RunEvent event;
  event.kind = RunEvent::Kind::started;
  event.step = i;
  event.state = StepState::running;
  event.threads = cores;
  say(std::move(event));

  // A foreign plugin that crashes takes its own process with it, not the run.
  const bool apart = planned.step->isolate.value_or(!planned.technique->plugin->ours);
  // A step admitted beside others gets more threads when those end: TBB shares its threads out among the arenas that
  // have work, and results do not depend on them. Another process cannot be helped so.
  unsigned slots = cores;
  if (!apart && !planned.step->resources.cores) slots = jobs_;
  if (planned.estimate.max_threads) slots = std::min(slots, planned.estimate.max_threads);
  // No place in the arena is kept for this thread: all of its cores belong to TBB's.
  running.arena = std::make_unique<tbb::task_arena>(static_cast<int>(slots), 0);
  running.arena->enqueue([this, i, &planned, apart] {
    Executor& executor = apart ? *process_ : *in_process_;
    post(i, run_step(
                running_[i].task, store_, executor,
                [this, i](RunEvent said) {
                  said.step = i;
                  say(std::move(said));
                },
                [this] { return stop() > 0; }));
  });
  return true;
}

void Scheduler::post(std::size_t i, StepOutcome outcome) {
  const std::lock_guard lock(ended_mutex_);
  ended_.emplace_back(i, std::move(outcome));
  ended_changed_.notify_one();  // under the lock: once it is released, the scheduler may be gone
}

void Scheduler::finish(std::size_t i, StepState state, Status error, std::string reason, double seconds) {
  StepResult& step = result_.steps[i];
  step.state = state;
  step.error = std::move(error);
  step.reason = std::move(reason);
  if (state == StepState::failed && failed_.empty()) failed_ = name(i);
  if (succeeded(i)) check_gates(i);
  RunEvent event;
  event.kind = RunEvent::Kind::finished;
  event.step = i;
  event.state = state;
  event.text = step.error.ok() ? step.reason : step.error.message();
  event.seconds = seconds;
  say(std::move(event));
  for (const std::size_t after : dependents_[i])
    if (--open_dependencies_[after] == 0) settled_.push_back(after);
}

std::string Scheduler::why_withheld(const PlannedOutput& output) const {
  if (result_.interrupted) return "interrupted";
  const StepResult& step = result_.steps[output.step];
  if (!succeeded(output.step))
    return step.state == StepState::skipped ? fmt::format("step '{}' was skipped: {}", name(output.step), step.reason)
                                            : fmt::format("step '{}' failed", name(output.step));
  if (!output.output->when_gates_pass) return {};
  for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
    const auto& gates = plan_.steps[i].step->gates;
    if (std::all_of(gates.begin(), gates.end(), [](const Gate& g) { return g.on_fail == GateAction::warn; })) continue;
    if (not_wanted_.contains(i)) continue;
    if (!succeeded(i)) return fmt::format("the gate of '{}' was not reached", name(i));
    if (const GateResult* gate = broken_gate(i))
      return fmt::format("gate '{}' of '{}' does not hold: {}", gate->text, name(i), gate->measured);
  }
  return {};
}

void Scheduler::publish_outputs() {
  for (const PlannedOutput& planned : plan_.outputs) {
    OutputResult& output = result_.outputs.emplace_back();
    output.name = planned.output->name;
    output.path = planned.path;
    output.reason = why_withheld(planned);
    if (!output.reason.empty()) {
      result_.outputs_withheld.push_back(planned.path);
      continue;
    }
    const Artifact* artifact = nullptr;
    for (const auto& [port, made] : result_.steps[planned.step].record->outputs)
      if (port == planned.port) artifact = &made;
    auto written =
        artifact ? publish(store_, *artifact, planned.path)
                 : Status(Code::not_found, fmt::format("step '{}' gave no '{}'", name(planned.step), planned.port));
    if (written.ok()) {
      output.state = *written ? OutputResult::State::written : OutputResult::State::unchanged;
      result_.outputs_written.push_back(planned.path);
    } else {
      output.state = OutputResult::State::failed;
      output.reason = fmt::format("output '{}': {}", output.name, written.error().message());
    }
  }
}

Status Scheduler::write_record() {
  result_.seconds = seconds_since(begin_);
  FETTLE_ASSIGN(result_.run_record, write_run_record(plan_, store_, result_));
  return {};
}

Result<RunResult> Scheduler::run() {
  // TBB counts the calling thread as one of its workers, but this one only waits.
  const tbb::global_control workers(tbb::global_control::max_allowed_parallelism, jobs_ + 1);
  for (;;) {
    while (!settled_.empty() && stop() == 0) {
      const std::size_t i = settled_.front();
      settled_.pop_front();
      settle(i);
    }
    if (stop() == 0) start_what_fits();
    if (stop() == 0 && !settled_.empty()) continue;  // a step failed before it started
    if (running_count_ == 0) break;

    std::deque<std::pair<std::size_t, StepOutcome>> ended;
    {
      std::unique_lock lock(ended_mutex_);
      // The timeout is for a signal handler, which can set a number but not wake us.
      ended_changed_.wait_for(lock, std::chrono::milliseconds(50), [&] { return !ended_.empty(); });
      ended.swap(ended_);
    }
    for (auto& [i, outcome] : ended) {
      Running& running = running_[i];
      used_cores_ -= running.task.threads;
      used_memory_ -= running.memory;
      --running_count_;
      running_keys_.erase(running.task.key.key);
      running.arena.reset();
      result_.steps[i].record = std::move(outcome.record);
      if (outcome.state == StepState::cancelled && stop() == 0) {
        outcome.state = StepState::failed;
        outcome.error = {Code::internal, "the technique says it was cancelled, but nobody asked for that"};
      }
      const bool cancelled = outcome.state == StepState::cancelled;
      finish(i, outcome.state, cancelled ? Status() : std::move(outcome.error), cancelled ? "interrupted" : "",
             seconds_since(running.begin));
    }
    if (stop() > 1) {
      result_.interrupted = true;
      publish_outputs();  // withholds all: the record says so of each
      (void)write_record();
      std::_Exit(130);
    }
  }
  for (StepResult& step : result_.steps) {
    if (step.state == StepState::waiting) {
      step.state = StepState::cancelled;
      step.reason = "interrupted";
    }
    result_.interrupted |= step.state == StepState::cancelled;
  }
  publish_outputs();
  FETTLE_TRY(write_record());
  return std::move(result_);
}

}  // namespace

Result<RunResult> run_plan(Plan& plan, Store& store, const RunOptions& options) {
  return Scheduler(plan, store, options).run();
}

}  // namespace fettle::host
