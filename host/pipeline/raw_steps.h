// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/matrix.h"
#include "host/pipeline/node.h"
#include "host/pipeline/pipeline.h"
#include "host/pipeline/variables.h"

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// A step of the file before matrix and each are expanded.
struct RawStep {
  const Node* key = nullptr;
  const Node* node = nullptr;
  std::string name;
  std::vector<Variant> variants;  ///< one with the label "" if the step stands alone
  const RawStep* base = nullptr;  ///< of `each`
  bool resolved = false, resolving = false, broken = false;

  bool multiple() const { return !(variants.size() == 1 && variants[0].label.empty()); }
  /// Steps with the same root have the same instances.
  const RawStep* root() const {
    const RawStep* step = this;
    while (step->base != nullptr) step = step->base;
    return step;
  }
  std::vector<std::string> labels() const {
    std::vector<std::string> out;
    for (const Variant& v : variants) out.push_back(v.label);
    return out;
  }
};

/// Where a reference stands: what `quant` alone means inside a step that has the instances of `quant` too.
struct Place {
  const RawStep* step = nullptr;
  const Variant* variant = nullptr;
};

/// The names and instances of a pipeline's steps, and what references to them mean. Findings go to the diagnostics.
class RawSteps {
 public:
  explicit RawSteps(Diagnostics& diagnostics) : diagnostics_(diagnostics) {}
  RawSteps(const RawSteps&) = delete;  // steps point at one another
  RawSteps& operator=(const RawSteps&) = delete;

  /// Reads the names under `steps:` of the file and expands `matrix` and `each`. `root` must outlive this.
  void collect(const Node& root, const Names& names);
  void add_input(const std::string& name) { input_names_.push_back(name); }

  std::deque<RawStep>& all() { return steps_; }
  RawStep* find(std::string_view name);
  const std::vector<std::string>& names() const { return step_names_; }
  bool uses_input(const std::string& name) const { return used_inputs_.contains(name); }

  /// Which instances of `step` a reference from `place` means, with `written` inside [...].
  std::vector<std::string> instances(const RawStep& step, const std::optional<std::string>& written, Place place,
                                     const SourceRange& where);
  /// What a reference may name beside a step.
  struct Allowed {
    bool ports = true;
    bool inputs = true;
  };
  /// Reads `name`, `name.port`, `name[instance]`, `name[*].port`. All instances meant; nothing after an error.
  std::vector<Reference> references(const Node& written, const std::string& what, Place place, Allowed allowed);

 private:
  void resolve_instances(RawStep& raw, const Names& names);
  bool resolve_each(RawStep& raw, const Node& each, const std::string& what, const Names& names);

  Diagnostics& diagnostics_;
  std::deque<RawStep> steps_;
  std::deque<Node> matrices_;  // Variants point into them
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::vector<std::string> step_names_, input_names_;
  std::set<std::string> used_inputs_;
};

}  // namespace fettle::host
