// SPDX-License-Identifier: Apache-2.0
#include "host/cli/run_display.h"

#include "host/report/quantity.h"
#include "host/report/table.h"
#include "host/run/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

namespace fettle::host {
namespace {

constexpr std::size_t most_lines = 16;                      // of running steps on the screen
constexpr std::chrono::milliseconds between_redraws{100};   // faster only flickers
constexpr std::chrono::seconds between_progress_lines{10};  // where lines stay

double share_of(std::uint64_t done, std::uint64_t total) {
  return total == 0 ? 0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
}

/// "train, 512 tokens/s" is the phase "train" with a remark that may change while it lasts.
std::pair<std::string, std::string> phase_and_remark(const std::string& text) {
  const std::size_t comma = text.find(", ");
  if (comma == std::string::npos) return {text, ""};
  return {text.substr(0, comma), text.substr(comma + 2)};
}

void write_stderr(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

}  // namespace

RunDisplay::RunDisplay(const Plan& plan, Terminal terminal, bool quiet, bool verbose)
    : plan_(plan), terminal_(terminal), quiet_(quiet), verbose_(verbose) {}

RunDisplay::~RunDisplay() {
  running_.clear();
  if (lines_ > 0) write_stderr(fmt::format("\x1b[{}A\r\x1b[J", lines_));
}

void RunDisplay::say(const std::string& line) {
  std::string text;
  if (lines_ > 0) text = fmt::format("\x1b[{}A\r\x1b[J", lines_);
  lines_ = 0;
  write_stderr(text + line + "\n");
  if (terminal_.interactive) redraw();
}

std::string RunDisplay::live_line(std::size_t step, const Running& running) const {
  const auto width = static_cast<std::size_t>(terminal_.width) - 1;
  const auto seconds = std::chrono::duration<double>(Clock::now() - running.started).count();
  const std::size_t name_width = std::min<std::size_t>(32, width / 3);
  std::string line = shortened(name(step), name_width);
  line += std::string(name_width + 1 - display_width(line), ' ');
  const auto [phase, remark] = phase_and_remark(running.phase);
  std::string progress = printable(phase);
  if (running.total > 0) {
    const double share = share_of(running.done, running.total);
    if (width >= 70) {
      constexpr std::size_t cells = 20;
      const auto full = static_cast<std::size_t>(share * cells);
      progress =
          fmt::format("{:16} [{}{}]", shortened(progress, 16), std::string(full, '#'), std::string(cells - full, '.'));
    }
    progress += fmt::format(" {:3.0f} %", share * 100);
    const auto in_phase = std::chrono::duration<double>(Clock::now() - running.phase_started).count();
    if (share > 0.02 && in_phase > 1)
      progress += fmt::format("  {} left", show_seconds(in_phase * (1 - share) / share));
  }
  if (!remark.empty()) progress += "  " + printable(remark);
  return shortened(fmt::format("{}{:>9}  {}", line, show_seconds(seconds), progress), width);
}

void RunDisplay::redraw() {
  last_redraw_ = Clock::now();
  std::string text = lines_ > 0 ? fmt::format("\x1b[{}A\r", lines_) : "";
  lines_ = 0;
  const auto line = [&](const std::string& content) {
    text += content + "\x1b[K\n";
    ++lines_;
  };
  for (const auto& [step, running] : running_) {
    if (lines_ == most_lines) break;
    line(live_line(step, running));
  }
  if (running_.size() > most_lines) line(fmt::format("... and {} more", running_.size() - most_lines));
  if (!running_.empty())
    line(fmt::format("{} of {} steps, {}", finished_, plan_.steps.size(), show_seconds(elapsed())));
  write_stderr(text + "\x1b[J");
}

void RunDisplay::show(const RunEvent& event) {
  const auto stamped = [&](const std::string& text) {
    const std::string who = name(event.step);
    if (terminal_.interactive) return fmt::format("{}: {}", who, text);
    return fmt::format("[{:8.1f} s] {}: {}", elapsed(), who, text);
  };
  const bool interactive = terminal_.interactive && !quiet_;
  switch (event.kind) {
    case RunEvent::Kind::started: {
      const auto now = Clock::now();
      running_[event.step] = {now, now, now, "", 0, 0};
      if (interactive)
        redraw();
      else if (!quiet_)
        say(stamped(fmt::format("started {} on {} core{}", plan_.steps[event.step].technique->id(), event.threads,
                                event.threads == 1 ? "" : "s")));
      break;
    }
    case RunEvent::Kind::progress: {
      Running& running = running_[event.step];
      const auto now = Clock::now();
      if (phase_and_remark(running.phase).first != phase_and_remark(event.phase).first) running.phase_started = now;
      running.phase = event.phase;
      running.done = event.done, running.total = event.total;
      if (interactive) {
        if (now - last_redraw_ >= between_redraws) redraw();
      } else if (!quiet_ && now - running.last_line >= between_progress_lines) {
        running.last_line = now;
        const auto [phase, remark] = phase_and_remark(running.phase);
        std::string text = printable(phase);
        if (running.total > 0) text += fmt::format(" {:.0f} %", share_of(running.done, running.total) * 100);
        if (!remark.empty()) text += ", " + printable(remark);
        say(stamped(text));
      }
      break;
    }
    case RunEvent::Kind::log:
      if (event.level == FETTLE_LOG_WARNING)
        say(stamped("warning: " + printable(event.text)));
      else if (!quiet_ && (event.level == FETTLE_LOG_INFO || verbose_))
        say(stamped(printable(event.text)));
      break;
    case RunEvent::Kind::finished: {
      running_.erase(event.step);
      ++finished_;
      std::string text = name_of(event.state);
      if (event.state == StepState::done) text += " in " + show_seconds(event.seconds);
      if (!event.text.empty()) text += ": " + printable(event.text);
      const bool failed = event.state == StepState::failed;
      if (terminal_.color) text = fmt::format("\x1b[{}m{}\x1b[0m", failed ? 31 : 32, text);
      if (failed || !quiet_) say(stamped(text));
      break;
    }
  }
}

}  // namespace fettle::host
