// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/plan/plan.h"

#include <map>
#include <optional>
#include <string>

namespace fettle::host {

/// Turns what steps write under `with:` into the values that a technique declares.
class ParamBinder {
 public:
  /// Relative paths start at `directory`; `store` (may be null) hashes what path parameters name.
  ParamBinder(std::string directory, const Store* store, Diagnostics& diagnostics)
      : directory_(std::move(directory)), store_(store), diagnostics_(diagnostics) {}

  /// All parameters in the order of the declaration, checked one by one and then by the technique's validate(). Nothing
  /// after an error, which has been reported.
  std::optional<ParamSet> bind(const Technique& technique, const Step& step);

 private:
  std::optional<ParamValue> value(const fettle_param& param, const Node& node, const std::string& what);
  std::optional<ParamValue> single(const fettle_param& param, const Node& node, const std::string& what);
  std::optional<ParamValue> default_of(const fettle_param& param, const std::string& what);

  std::string directory_;
  const Store* store_;
  Diagnostics& diagnostics_;
  std::map<const fettle_param*, ParamValue> defaults_;  // read once: a technique may serve hundreds of steps
};

}  // namespace fettle::host
