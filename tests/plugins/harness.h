// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/abi.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

// Runs one technique of a plugin the way the host does, without the host: loads the shared object, fills the C tables,
// collects what the technique reports. For tests of plugins:
//
//   const StepResult result = Step("prune_magnitude", "prune.magnitude")
//                                 .input("model", "model", folder, {{"layout", "hf"}})
//                                 .param("sparsity", 0.5)
//                                 .run();
//   ASSERT_TRUE(result.ok()) << result.message;

namespace fettle::test {

using Attributes = std::map<std::string, std::string>;

struct Metric {
  double value = 0;
  double standard_error = 0;  ///< NaN: none
  std::string unit;
};

struct LogLine {
  int level = 0;  ///< fettle_log_level
  std::string text;
};

struct ProgressPoint {
  std::string phase;
  std::uint64_t done = 0, total = 0;
};

/// What a call of validate(), estimate() or run() left behind.
struct StepResult {
  int code = FETTLE_INTERNAL;  ///< fettle_status
  std::string where, message;
  std::map<std::string, Metric> metrics;
  std::map<std::string, std::vector<std::pair<double, double>>> series;
  std::vector<LogLine> log;
  std::vector<ProgressPoint> progress;
  std::map<std::string, std::string> outputs;  ///< port -> folder; lives as long as the test program
  fettle_estimate estimate{};                  ///< after estimate()
  std::map<std::string, Attributes> foretold;  ///< after estimate(): port -> attributes

  bool ok() const { return code == FETTLE_OK; }
  double value(const std::string& metric) const { return metrics.at(metric).value; }
  std::vector<std::string> warnings() const;
};

class Step {
 public:
  /// `plugin` is the CMake target's name: <build>/plugins/<plugin>.so is loaded. Throws std::runtime_error if that
  /// fails or it has no such technique.
  Step(const std::string& plugin, const std::string& technique);

  Step& input(std::string port, std::string kind, std::string path, Attributes attributes = {},
              std::string digest = {});
  /// Values as JSON: numbers, strings, lists, objects. Sizes in bytes, durations in seconds. Not given: the default.
  Step& param(const std::string& name, nlohmann::ordered_json value);
  Step& threads(unsigned count);  ///< size of the TBB arena the technique runs in; default 2
  Step& seed(std::uint64_t value);
  Step& memory_budget(std::uint64_t bytes);
  /// The folder that survives a killed step; by default a new one each run.
  Step& checkpoint(std::string folder);
  /// cancelled() turns true at its n-th call (1: at once).
  Step& cancel_at_poll(std::uint64_t n);

  StepResult validate() const;
  StepResult estimate() const;
  StepResult run() const;

  const fettle_technique& technique() const { return *technique_; }

 private:
  struct InputArtifact {
    std::string port, kind, path, digest;
    Attributes attributes;
  };
  StepResult call(const std::function<std::int32_t(fettle_run&, StepResult&, fettle_error&)>& body,
                  bool planning) const;

  const fettle_technique* technique_ = nullptr;
  std::vector<InputArtifact> inputs_;
  std::map<std::string, nlohmann::ordered_json> params_;
  unsigned threads_ = 2;
  std::uint64_t seed_ = 0;
  std::uint64_t memory_budget_ = std::uint64_t{4} << 30;
  std::uint64_t cancel_at_ = 0;
  std::string checkpoint_;
};

/// A new empty folder, removed when the test program ends.
std::string temporary_folder();

}  // namespace fettle::test
