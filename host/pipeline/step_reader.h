// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/raw_steps.h"

#include <optional>
#include <string>
#include <vector>

namespace fettle::host {

/// Reads what stands inside a step of the file, once for each of its instances.
class StepReader {
 public:
  StepReader(RawSteps& steps, Diagnostics& diagnostics) : steps_(steps), diagnostics_(diagnostics) {}

  /// Appends one Step an instance to `out`. `names`: what ${...} may name outside of steps.
  void read(const RawStep& raw, const Names& names, std::vector<Step>& out);

 private:
  /// One instance of a step: where its references stand, and what its ${...} may name.
  struct Instance {
    Place place;
    Names names;
  };

  Step step(const Node& node, const Instance& at);
  const Node* map_of(const Node& node, const char* key, const std::string& what);
  void read_resources(Step& step, const Node& node, const std::string& what, const Names& names);
  std::optional<Expression> expression(const Node& node, const std::string& what, const Instance& at, bool own_metrics);
  void add_gate(Step& step, const Node& node, const std::string& what, const Instance& at);

  RawSteps& steps_;
  Diagnostics& diagnostics_;
};

}  // namespace fettle::host
