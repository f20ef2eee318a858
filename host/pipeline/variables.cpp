// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/variables.h"

#include "host/pipeline/keys.h"
#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace fettle::host {

namespace {

constexpr std::uint32_t list_type = 0;

std::optional<std::uint32_t> read_type(const Node& node, const std::string& what, Diagnostics& diagnostics) {
  static const std::vector<std::string> names{"path",     "int",    "float", "count", "size",
                                              "duration", "string", "bool",  "list"};
  if (node.kind == Node::Kind::scalar && node.text == "list") return list_type;
  for (std::uint32_t type = FETTLE_TYPE_BOOL; type <= FETTLE_TYPE_PATH; ++type)
    if (node.kind == Node::Kind::scalar && node.text == type_name(type)) return type;
  diagnostics.error(node.where,
                    fmt::format("{}: unknown type {}{}", what, describe(node), did_you_mean(node.text, names)),
                    {"types: " + listed(names)});
  return std::nullopt;
}

bool same_value(const Node& a, const Node& b, std::uint32_t type) {
  const auto x = read_scalar(a, type), y = read_scalar(b, type);
  return x && y && x->integer == y->integer && x->real == y->real && x->text == y->text;
}

/// Checks the value against type, min, max and one_of. True if it is good.
bool check_value(const Node& value, std::uint32_t type, const Node& declaration, const std::string& what,
                 Diagnostics& diagnostics) {
  if (type == list_type) {
    if (value.kind != Node::Kind::list) {
      diagnostics.error(value.where, fmt::format("{}: expected a list, found {}", what, describe(value)));
      return false;
    }
    for (const Node& item : value.items)
      if (item.kind != Node::Kind::scalar) {
        diagnostics.error(item.where,
                          fmt::format("{}: expected a list of single values, found {}", what, describe(item)));
        return false;
      }
    return true;
  }
  const std::optional<Scalar> scalar = read_scalar(value, type);
  if (!scalar) {
    diagnostics.error(value.where, fmt::format("{}: found {}, {}", what, describe(value), expectation(type, value)));
    return false;
  }
  bool good = true;
  for (const char* bound : {"min", "max"}) {
    const Node* limit = declaration.find(bound);
    const std::optional<Scalar> number = limit == nullptr ? std::nullopt : read_scalar(*limit, type);
    if (!number) continue;  // absent, or reported with the declaration
    const bool lowest = std::string_view(bound) == "min";
    if (lowest ? scalar->real < number->real : scalar->real > number->real) {
      diagnostics.error(value.where, fmt::format("{} is {}, must be at {} {}", what, value.text,
                                                 lowest ? "least" : "most", limit->text));
      good = false;
    }
  }
  const Node* choices = declaration.find("one_of");
  if (choices == nullptr) choices = declaration.find("choices");
  if (choices != nullptr && choices->kind == Node::Kind::list &&
      std::none_of(choices->items.begin(), choices->items.end(),
                   [&](const Node& c) { return same_value(c, value, type); })) {
    std::vector<std::string> names;
    for (const Node& c : choices->items) names.push_back(c.text);
    diagnostics.error(value.where, fmt::format("{} is {}, must be one of {}{}", what, describe(value), listed(names),
                                               did_you_mean(value.text, names)));
    good = false;
  }
  return good;
}

std::vector<std::string> prefixed(std::string_view group, const std::vector<Binding>* bindings) {
  std::vector<std::string> names;
  if (bindings != nullptr)
    for (const Binding& b : *bindings) names.push_back(fmt::format("{}.{}", group, b.name));
  return names;
}

}  // namespace

std::string value_text(const Node& value) {
  if (value.kind != Node::Kind::list) return value.text;
  std::string out = "[";
  for (const Node& item : value.items) out += (out.size() > 1 ? ", " : "") + item.text;
  return out + "]";
}

const Binding* Names::find(std::string_view name, const SourceRange& where, Diagnostics& diagnostics) const {
  const std::size_t dot = name.find('.');
  const std::string_view group = name.substr(0, dot);
  const std::string_view member = dot == std::string_view::npos ? std::string_view{} : name.substr(dot + 1);
  const std::vector<Binding>* bindings = group == "vars"     ? vars
                                         : group == "matrix" ? matrix
                                         : group == "each"   ? each
                                                             : nullptr;
  if (bindings != nullptr)
    for (const Binding& b : *bindings)
      if (b.name == member) {
        if (group == "vars" && used_vars != nullptr) used_vars->insert(b.name);
        return &b;
      }
  if (group == "matrix" && matrix == nullptr) {
    diagnostics.error(where, fmt::format("'{}': there is no matrix here", name));
  } else if (group == "each" && each == nullptr) {
    diagnostics.error(where, fmt::format("'{}': there is no 'each:' here", name));
  } else {
    std::vector<std::string> members;  // compared without the group, whose letters would make everything near
    if (bindings != nullptr)
      for (const Binding& b : *bindings) members.push_back(b.name);
    const std::string near = nearest(member, members);
    const std::string hint = near.empty() ? "" : fmt::format("; did you mean '{}.{}'?", group, near);
    std::vector<std::string> known = prefixed("vars", vars);
    for (const std::string& n : prefixed("matrix", matrix)) known.push_back(n);
    for (const std::string& n : prefixed("each", each)) known.push_back(n);
    diagnostics.error(
        where, fmt::format("unknown variable '{}'{}", name, hint),
        hint.empty() ? std::vector<std::string>{known.empty() ? "this pipeline has no vars" : "known: " + listed(known)}
                     : std::vector<std::string>{});
  }
  return nullptr;
}

std::optional<Expression::Value> Names::constant(std::string_view name, const SourceRange& where,
                                                 Diagnostics& diagnostics) const {
  const Binding* binding = find(name, where, diagnostics);
  if (binding == nullptr) return std::nullopt;
  const std::optional<Scalar> scalar = read_scalar(binding->value, binding->type);
  if (!scalar) {
    if (binding->value.kind == Node::Kind::list)
      diagnostics.error(where, fmt::format("'{}' is a list, which expressions cannot use", name));
    else
      diagnostics.error(where, fmt::format("'{}' has no value", name));
    return std::nullopt;
  }
  switch (binding->type) {
    case FETTLE_TYPE_BOOL:
      return Expression::Value(scalar->integer != 0);
    case FETTLE_TYPE_STRING:
    case FETTLE_TYPE_PATH:
      return Expression::Value(scalar->text);
    default:
      return Expression::Value(scalar->real);
  }
}

Node Names::replace(const Node& node, Diagnostics& diagnostics) const {
  Node out = node;
  for (Node& item : out.items) item = replace(item, diagnostics);
  for (auto& [key, value] : out.entries) value = replace(value, diagnostics);
  if (node.kind != Node::Kind::scalar || node.text.find("${") == std::string::npos) return out;
  const std::string& text = node.text;
  out.text.clear();
  for (std::size_t i = 0; i < text.size();) {
    if (text.compare(i, 3, "$${") == 0) {
      out.text += "${";
      i += 3;
      continue;
    }
    if (text.compare(i, 2, "${") != 0) {
      out.text += text[i++];
      continue;
    }
    const std::size_t close = text.find('}', i);
    if (close == std::string::npos) {
      diagnostics.error(inside(node, i, 2), "a '${' without its '}'", {"write $${ for the two characters themselves"});
      return node;
    }
    const std::string_view name = std::string_view(text).substr(i + 2, close - i - 2);
    const SourceRange where = inside(node, i + 2, std::max<std::size_t>(name.size(), 1));
    const Binding* binding = find(name, where, diagnostics);
    if (binding == nullptr) return node;
    const bool whole = i == 0 && close + 1 == text.size();
    if (whole) {
      Node value = binding->value;
      const auto move = [&](Node& n, const auto& self) -> void {
        n.where = node.where;
        for (Node& item : n.items) self(item, self);
      };
      move(value, move);
      return value;
    }
    if (binding->value.kind == Node::Kind::list) {
      diagnostics.error(where, fmt::format("'{}' is a list and cannot stand inside text", name));
      return node;
    }
    out.text += binding->value.text;
    i = close + 1;
  }
  return out;
}

std::vector<Binding> read_variables(const Node& vars, Diagnostics& diagnostics) {
  std::vector<Binding> bindings;
  if (vars.kind != Node::Kind::map) {
    diagnostics.error(vars.where, fmt::format("vars: expected a map, found {}", describe(vars)));
    return bindings;
  }
  for (const auto& [key, declaration] : vars.entries) {
    if (!check_name(key, "a variable", diagnostics)) continue;
    const std::string what = fmt::format("variable '{}'", key.text);
    bindings.push_back({key.text, {}, FETTLE_TYPE_STRING});
    Binding& binding = bindings.back();
    if (declaration.kind != Node::Kind::map) {
      diagnostics.error(declaration.where,
                        fmt::format("{}: expected a map such as {{type: float, default: 0.5}}, found {}", what,
                                    describe(declaration)));
      continue;
    }
    check_keys(declaration, {"type", "default", "min", "max", "one_of", "choices", "help"}, what, diagnostics);
    const Node* type = declaration.find("type");
    if (type == nullptr) {
      diagnostics.error(key.where, fmt::format("{} has no type", what),
                        {"types: path, int, float, count, size, duration, string, bool, list"});
      continue;
    }
    const std::optional<std::uint32_t> known = read_type(*type, what, diagnostics);
    if (!known) continue;
    binding.type = *known;
    for (const char* bound : {"min", "max"})
      if (const Node* limit = declaration.find(bound)) {
        const bool numeric = *known != list_type && *known != FETTLE_TYPE_STRING && *known != FETTLE_TYPE_PATH &&
                             *known != FETTLE_TYPE_BOOL;
        if (!numeric)
          diagnostics.error(limit->where, fmt::format("{}: a {} has no '{}'", what,
                                                      *known == list_type ? "list" : type_name(*known), bound));
        else if (!read_scalar(*limit, *known))
          diagnostics.error(limit->where, fmt::format("{}: '{}': found {}, {}", what, bound, describe(*limit),
                                                      expectation(*known, *limit)));
      }
    for (const char* name : {"one_of", "choices"})
      if (const Node* choices = declaration.find(name); choices != nullptr && choices->kind != Node::Kind::list)
        diagnostics.error(choices->where,
                          fmt::format("{}: '{}': expected a list, found {}", what, name, describe(*choices)));
    if (const Node* help = declaration.find("help"); help != nullptr && help->kind != Node::Kind::scalar)
      diagnostics.error(help->where, fmt::format("{}: 'help': expected text, found {}", what, describe(*help)));
    const Node* value = declaration.find("default");
    if (value == nullptr) {
      diagnostics.error(key.where, fmt::format("{} has no value", what),
                        {fmt::format("give it a default, or run with --set vars.{}=VALUE", key.text)});
      continue;
    }
    if (value->kind == Node::Kind::scalar && value->text.find("${") != std::string::npos) {
      diagnostics.error(value->where, fmt::format("{}: a variable cannot refer to others", what));
      continue;
    }
    if (!check_value(*value, *known, declaration, what, diagnostics)) continue;
    binding.value = *value;
    if (*known == FETTLE_TYPE_STRING || *known == FETTLE_TYPE_PATH) binding.value.quoted = true;
  }
  return bindings;
}

}  // namespace fettle::host
