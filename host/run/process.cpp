// SPDX-License-Identifier: Apache-2.0
#include "host/run/executor.h"
#include "host/run/worker.h"
#include "host/store/durable.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

namespace fettle::host {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kGrace{10};   // from being asked to stop to being killed
constexpr std::size_t kMaxLine = 16u << 20;  // of an event
constexpr int kEventsInWorker = 3;

double number(const Json& json) { return std::strtod(json.get_ref<const std::string&>().c_str(), nullptr); }

/// Passes one event on; the outcome, if this is the last one.
std::optional<Status> take_event(std::string_view line, StepListener& listener) {
  try {
    const Json json = Json::parse(line);
    const std::string event = json.at("event").get<std::string>();
    if (event == "log") listener.log(json.at("level").get<int>(), json.at("text").get<std::string>());
    if (event == "progress")
      listener.progress(json.at("phase").get<std::string>(), json.at("done").get<std::uint64_t>(),
                        json.at("total").get<std::uint64_t>());
    if (event == "metric") {
      Metric metric{number(json.at("value")), std::nullopt, json.at("unit").get<std::string>()};
      if (json.contains("standard_error")) metric.standard_error = number(json["standard_error"]);
      listener.metric(json.at("name").get<std::string>(), metric);
    }
    if (event == "point")
      listener.point(json.at("series").get<std::string>(), number(json.at("x")), number(json.at("y")));
    if (event == "peak_memory") listener.peak_memory(json.at("bytes").get<std::uint64_t>());
    if (event == "ended") {
      const int code = json.at("code").get<int>();
      if (code == FETTLE_OK) return Status();
      return Status(static_cast<Code>(code), json.at("message").get<std::string>(),
                    json.at("where").get<std::string>());
    }
  } catch (const std::exception&) {
    // A plugin may have written to a descriptor that is not its own; the outcome does not depend on such a line.
  }
  return std::nullopt;
}

/// A child process; killed and reaped if nobody waited for it.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    send(SIGKILL);
    (void)wait();
  }
  void send(int signal) const { ::kill(pid_, signal); }
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_;
};

class Process final : public Executor {
 public:
  explicit Process(std::string program) : program_(std::move(program)) {}

  Status run(const StepJob& job, StepListener& listener) override {
    // Beside the scratch folder: inside the step's transaction, outside what the step sees.
    const std::string request = std::filesystem::path(job.scratch).parent_path().string() + "/request.json";
    FETTLE_TRY(replace_file(request, request + ".new", write_request(job), false));
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return io_error("pipe", "create", errno);
    const Descriptor reader(ends[0]);
    Descriptor writer(ends[1]);

    const std::string program = program_.empty() ? "/proc/self/exe" : program_;
    const std::string events = std::to_string(kEventsInWorker);
    const std::array<const char*, 5> arguments{program.c_str(), "worker", request.c_str(), events.c_str(), nullptr};
    const pid_t self = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) return {Code::io, fmt::format("cannot start a process: {}", std::strerror(errno))};
    if (pid == 0) {
      // Only calls that are safe after a fork of a process with threads.
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != self) ::_exit(127);
      ::signal(SIGINT, SIG_IGN);  // of the terminal: the parent decides what it means
      if (writer.get() == kEventsInWorker)
        ::fcntl(kEventsInWorker, F_SETFD, 0);
      else
        ::dup2(writer.get(), kEventsInWorker);
      ::dup2(STDERR_FILENO, STDOUT_FILENO);  // stdout is for the results of the run
      ::execv(program.c_str(), const_cast<char* const*>(arguments.data()));
      ::_exit(127);
    }
    Child child(pid);
    writer = Descriptor();
    return watch(child, reader.get(), listener);
  }

 private:
  Status watch(Child& child, int events, StepListener& listener) const {
    std::string pending;
    std::vector<char> buffer(1u << 16);
    std::optional<Status> outcome;
    std::optional<Clock::time_point> asked_to_stop;
    bool killed = false;
    for (;;) {
      if (!asked_to_stop && listener.cancelled()) {
        child.send(SIGTERM);
        asked_to_stop = Clock::now();
      }
      if (asked_to_stop && !killed && Clock::now() - *asked_to_stop > kGrace) {
        child.send(SIGKILL);
        killed = true;
      }
      pollfd waiting{events, POLLIN, 0};
      if (::poll(&waiting, 1, 50) <= 0) continue;
      const ssize_t n = ::read(events, buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      pending.append(buffer.data(), static_cast<std::size_t>(n));
      std::size_t begin = 0;
      for (std::size_t end = 0; (end = pending.find('\n', begin)) != pending.npos; begin = end + 1)
        if (auto ended = take_event(std::string_view(pending).substr(begin, end - begin), listener))
          outcome = std::move(ended);
      pending.erase(0, begin);
      if (pending.size() > kMaxLine) pending.clear();
    }
    const int status = child.wait();
    if (asked_to_stop && !(outcome && outcome->ok())) return {Code::cancelled, "cancelled"};
    if (WIFSIGNALED(status)) {
      const int signal = WTERMSIG(status);
      return {Code::internal,
              fmt::format("its process was killed by SIG{} ({}){}", ::sigabbrev_np(signal), ::sigdescr_np(signal),
                          signal == SIGKILL ? "; the machine may have run out of memory" : "")};
    }
    if (outcome) return *std::move(outcome);
    if (WEXITSTATUS(status) == 127)
      return {Code::io, fmt::format("cannot start '{} worker'", program_.empty() ? "fettle" : program_)};
    return {Code::internal, fmt::format("its process ended with {} and without a result", WEXITSTATUS(status))};
  }

  const std::string program_;
};

}  // namespace

std::unique_ptr<Executor> process_executor(std::string program) {
  return std::make_unique<Process>(std::move(program));
}

}  // namespace fettle::host
