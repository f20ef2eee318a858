// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/pipeline/expression.h"
#include "host/pipeline/node.h"

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fettle::host {

/// A name of ${...} with its value: a scalar or a list.
struct Binding {
  std::string name;
  Node value;
  std::uint32_t type = 0;  ///< fettle_type; 0 for a list
};

/// What ${...} may name at some place: vars everywhere, matrix and each inside a step that has them.
struct Names {
  const std::vector<Binding>* vars = nullptr;
  const std::vector<Binding>* matrix = nullptr;
  const std::vector<Binding>* each = nullptr;
  std::set<std::string>* used_vars = nullptr;

  /// The binding of "vars.keep", or null after reporting an unknown one at `where`.
  const Binding* find(std::string_view name, const SourceRange& where, Diagnostics& diagnostics) const;
  /// The same as a value of an expression.
  std::optional<Expression::Value> constant(std::string_view name, const SourceRange& where,
                                            Diagnostics& diagnostics) const;
  /// The node with every ${...} in its values replaced. A scalar that is nothing but ${name} becomes the value, with
  /// its type; inside longer text it becomes text. $${ stands for ${.
  Node replace(const Node& node, Diagnostics& diagnostics) const;
};

/// Reads the declarations under `vars:` and their values. Variables with errors get no binding but are known as names.
std::vector<Binding> read_variables(const Node& vars, Diagnostics& diagnostics);

/// "keep = 0.67": a value as text.
std::string value_text(const Node& value);

}  // namespace fettle::host
