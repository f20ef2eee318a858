// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include "host/pipeline/source.h"

#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// A YAML 1.2 core value with its place: what the rest of the host sees of YAML. Keys are unique strings, in file
/// order.
struct Node {
  enum class Kind { null, scalar, list, map } kind = Kind::null;
  std::string text;     ///< of a scalar
  bool quoted = false;  ///< a quoted scalar is always a string
  SourceRange where;
  struct Entry;
  std::vector<Node> items;     ///< of a list
  std::vector<Entry> entries;  ///< of a map

  const Node* find(std::string_view key) const;
};
struct Node::Entry {
  Node key;  ///< a scalar
  Node value;
};

struct YamlLimits {
  std::size_t max_bytes = 8u << 20;
  int max_depth = 64;
  std::size_t max_nodes = 200'000;  ///< after alias expansion
};

/// Parses one YAML document. Duplicate keys, non-string keys, tags, merge keys, several documents, tabs in indentation
/// and exceeded limits are errors with their place. Returns a null node if there were errors.
Node parse_yaml(std::shared_ptr<const SourceText> source, Diagnostics& diagnostics, YamlLimits limits = {});

}  // namespace fettle::host
