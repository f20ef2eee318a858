// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "host/pipeline/source.h"

namespace fettle::host {

/// The small typed language of gates and `when:` (docs/reference/yaml.md): numbers (also 1.5GiB, 2M), strings, true, false,
/// metrics written step.metric (or metric alone: of the gated step itself), step.metric.se for its standard error, vars.NAME,
/// + - * / comparison, and or not, min max abs. Typed before anything runs.
class Expression {
 public:
  using Value = std::variant<double, bool, std::string>;
  /// Name of a step instance ("" = the step that has the gate), metric name, and whether its standard error is meant.
  struct MetricRef {
    std::string step;
    std::string metric;
    bool standard_error = false;
    SourceRange where;
  };
  struct Node;

  Expression() = default;
  /// Parses `text`, whose first character stands at `where`; problems go to `diagnostics`.
  static std::optional<Expression> parse(std::string_view text, SourceRange where, Diagnostics& diagnostics);

  const std::string& text() const { return text_; }
  const SourceRange& where() const { return where_; }
  const std::vector<MetricRef>& metrics() const { return metrics_; }

  /// Evaluates with `metric` giving values (nothing: not reported). Returns the value or a message.
  using Lookup = std::function<std::optional<double>(const MetricRef&)>;
  std::variant<Value, std::string> evaluate(const Lookup& metric) const;
  /// "ppl = 31.2, before.ppl = 29.4": what the metrics in it were, for reports.
  std::string explain(const Lookup& metric) const;

 private:
  std::string text_;
  SourceRange where_;
  std::shared_ptr<const Node> root_;
  std::vector<MetricRef> metrics_;
};

}  // namespace fettle::host
