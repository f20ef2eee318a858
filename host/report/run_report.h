// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace fettle::host {

/// What a run record (<store>/runs/*.json) says, as plain values. Everything the three texts below show is in it, so a
/// run can be looked at long after it ended, on another machine.
struct RunReport {
  struct Metric {
    std::string name, unit;
    double value = 0;
    std::optional<double> standard_error;
  };
  struct Series {
    std::string name;
    std::vector<std::pair<double, double>> points;
  };
  struct Artifact {
    std::string port, kind, digest;
    std::uint64_t bytes = 0;
  };
  struct Gate {
    std::string require, measured;
    bool passed = false;
  };
  struct Step {
    std::string name, technique, state, error, reason;
    std::optional<double> seconds;  ///< when it ran, maybe in an earlier run; nothing if it never finished
    std::uint64_t peak_memory = 0;
    std::uint64_t estimated_memory = 0;
    std::vector<Artifact> outputs;
    std::vector<Metric> metrics;
    std::vector<Series> series;
    std::vector<std::string> warnings;
    std::vector<Gate> gates;
  };
  struct Input {
    std::string name, kind, digest;
  };
  struct Output {
    std::string name, path, state, reason;
    std::uint64_t bytes = 0;
  };

  std::string path;  ///< of the record
  std::string pipeline, file, digest, ended, version, cpu, isa;
  double seconds = 0;
  bool interrupted = false;
  std::vector<std::pair<std::string, std::string>> vars;
  std::vector<Input> inputs;
  std::vector<Step> steps;
  std::vector<Output> outputs;
};

/// Errors: not_found; corrupt_data for what is no run record, or one of a later format.
Result<RunReport> read_run_report(const std::string& path);

/// Tables for a terminal: steps, the metrics of each technique side by side, how losses fell, gates, outputs.
std::string run_report_text(const RunReport& report, bool utf8);
/// The tables of metrics and losses, and gates, as Markdown, to be pasted into a page.
std::string run_report_markdown(const RunReport& report);
/// One self-contained page: the above, curves of every series, size against quality, digests. The same record gives the
/// same bytes.
std::string run_report_html(const RunReport& report);

}  // namespace fettle::host
