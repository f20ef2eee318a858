// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/log/terminal.h"
#include "host/run/run.h"

#include <chrono>
#include <map>
#include <string>

namespace fettle::host {

/// Shows a run on stderr while it goes. On a terminal: a line for each running step that is rewritten in place, while
/// finished steps scroll by. Elsewhere: one line an event. Called from one thread at a time.
class RunDisplay {
 public:
  RunDisplay(const Plan& plan, Terminal terminal, bool quiet, bool verbose);
  ~RunDisplay();  ///< takes the rewritten lines away
  RunDisplay(const RunDisplay&) = delete;
  RunDisplay& operator=(const RunDisplay&) = delete;
  void show(const RunEvent& event);

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    Clock::time_point started, phase_started, last_line;
    std::string phase;
    std::uint64_t done = 0, total = 0;
  };
  /// A line that stays, above those that are rewritten.
  void say(const std::string& line);
  void redraw();
  std::string live_line(std::size_t step, const Running& running) const;
  const std::string& name(std::size_t step) const { return plan_.steps[step].step->name; }
  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  const Plan& plan_;
  const Terminal terminal_;
  const bool quiet_, verbose_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_redraw_{};
  std::map<std::size_t, Running> running_;
  std::size_t finished_ = 0;
  std::size_t lines_ = 0;  ///< on the screen that the next redraw replaces
};

}  // namespace fettle::host
