// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/source.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace fettle::host {

/// The small typed language of gates and `when:` (docs/reference/yaml.md): numbers (also 1.5GiB, 2M, 15%), strings,
/// true, false, metrics written step.metric (or metric alone: of the gated step itself), step.metric.se for its
/// standard error, vars.NAME, + - * / comparison, and or not, min max abs. Typed before anything runs. Immutable. [any
/// thread]
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
  enum class Type { number, boolean, string };
  struct Node;

  /// What names mean where the expression stands. Without them every step name is taken as it is written, and vars,
  /// matrix and each are unknown.
  struct Scope {
    /// The value of "vars.keep", "matrix.type" or "each.instance"; reports an unknown one itself.
    std::function<std::optional<Value>(std::string_view name, const SourceRange& where)> constant;
    /// The step instance meant by a step name and what stands in [...]; reports an unknown one itself.
    std::function<std::optional<std::string>(std::string_view step, const std::optional<std::string>& instance,
                                             const SourceRange& where)>
        step;
  };

  Expression() = default;
  /// Parses `text`, whose first character stands at `where`; problems go to `diagnostics`.
  static std::optional<Expression> parse(std::string_view text, SourceRange where, Diagnostics& diagnostics,
                                         const Scope& scope = {});

  Type type() const { return type_; }

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
  Type type_ = Type::boolean;
  std::shared_ptr<const Node> root_;
  std::vector<MetricRef> metrics_;
};

}  // namespace fettle::host
