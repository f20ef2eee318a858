// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/overrides.h"

#include "host/pipeline/keys.h"
#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>

namespace fettle::host {

namespace {

Node* find(Node& map, std::string_view key) { return const_cast<Node*>(map.find(key)); }

std::vector<std::string> keys_of(const Node* map) {
  std::vector<std::string> keys;
  if (map != nullptr)
    for (const auto& [key, value] : map->entries) keys.push_back(key.text);
  return keys;
}

void set_entry(Node& map, const Node& key, const Node& value) {
  Node patch;
  patch.kind = Node::Kind::map;
  patch.entries.push_back({key, value});
  merge(map, patch);
}

/// Gives the variable a value: its declaration gets another default.
bool set_variable(Node& root, const Node& name, const Node& value, Diagnostics& diagnostics) {
  Node* vars = find(root, "vars");
  Node* declared = vars == nullptr ? nullptr : find(*vars, name.text);
  if (declared == nullptr) {
    diagnostics.error(name.where,
                      fmt::format("unknown variable {}{}", describe(name), did_you_mean(name.text, keys_of(vars))));
    return false;
  }
  if (declared->kind != Node::Kind::map) return true;  // reported where it is declared
  Node key;
  key.kind = Node::Kind::scalar;
  key.text = "default";
  key.where = name.where;
  auto& entries = declared->entries;
  std::erase_if(entries, [](const auto& entry) { return entry.key.text == "default"; });
  entries.push_back({std::move(key), value});
  return true;
}

Node* find_step(Node& root, const Node& name, Diagnostics& diagnostics) {
  Node* steps = find(root, "steps");
  Node* step = steps == nullptr ? nullptr : find(*steps, name.text);
  if (step == nullptr)
    diagnostics.error(name.where,
                      fmt::format("unknown step {}{}", describe(name), did_you_mean(name.text, keys_of(steps))));
  return step != nullptr && step->kind == Node::Kind::map ? step : nullptr;
}

void apply_profile(Node& root, const std::string& name, const Node& profile, Diagnostics& diagnostics) {
  if (!check_keys(profile, {"vars", "steps"}, fmt::format("profile '{}'", name), diagnostics)) return;
  if (const Node* vars = profile.find("vars")) {
    if (vars->kind != Node::Kind::map)
      diagnostics.error(vars->where, fmt::format("profile '{}': expected a map of variables and their values, found {}",
                                                 name, describe(*vars)));
    for (const auto& [key, value] : vars->entries) set_variable(root, key, value, diagnostics);
  }
  if (const Node* steps = profile.find("steps")) {
    if (steps->kind != Node::Kind::map)
      diagnostics.error(steps->where,
                        fmt::format("profile '{}': expected a map of steps, found {}", name, describe(*steps)));
    for (const auto& [key, value] : steps->entries) {
      Node* step = find_step(root, key, diagnostics);
      if (check_keys(value, step_keys(), fmt::format("step '{}'", key.text), diagnostics) && step != nullptr)
        merge(*step, value);
    }
  }
}

}  // namespace

const std::vector<std::string>& step_keys() {
  static const std::vector<std::string> keys{"use",  "in",   "with",      "gate",    "after", "when",
                                             "each", "seed", "resources", "isolate", "matrix"};
  return keys;
}

void merge(Node& into, const Node& from) {
  if (into.kind != Node::Kind::map || from.kind != Node::Kind::map) {
    into = from;
    return;
  }
  for (const auto& [key, value] : from.entries) {
    const std::string& name = key.text;
    if (value.kind == Node::Kind::null) {
      std::erase_if(into.entries, [&](const auto& entry) { return entry.key.text == name; });
    } else if (const auto entry = std::find_if(into.entries.begin(), into.entries.end(),
                                               [&](const auto& e) { return e.key.text == name; });
               entry != into.entries.end()) {
      merge(entry->value, value);
      if (value.kind != Node::Kind::map) entry->key.where = key.where;
    } else {
      into.entries.push_back({key, value});
    }
  }
}

void apply_profiles(Node& root, const std::vector<std::string>& chosen, Diagnostics& diagnostics) {
  const Node* found = root.find("profiles");
  Node profiles;
  if (found != nullptr) profiles = *found;  // a copy: what follows changes the tree
  if (found != nullptr && found->kind != Node::Kind::map) {
    diagnostics.error(found->where, fmt::format("profiles: expected a map, found {}", describe(*found)));
    return;
  }
  for (const auto& [name, profile] : profiles.entries) {
    if (!check_name(name, "a profile", diagnostics)) continue;
    Node trial = root;  // profiles that are not chosen are checked too
    if (std::find(chosen.begin(), chosen.end(), name.text) == chosen.end())
      apply_profile(trial, name.text, profile, diagnostics);
  }
  for (const std::string& name : chosen) {
    if (const Node* profile = profiles.find(name)) {
      apply_profile(root, name, *profile, diagnostics);
    } else {
      const auto source = std::make_shared<SourceText>(SourceText{"--profile", name});
      const std::vector<std::string> known = keys_of(&profiles);
      diagnostics.error({source, 1, 1, static_cast<int>(name.size())},
                        fmt::format("unknown profile '{}'{}", name, did_you_mean(name, known)),
                        {known.empty() ? "this pipeline has no profiles" : "profiles: " + listed(known)});
    }
  }
}

void apply_set(Node& root, const std::string& set, Diagnostics& diagnostics) {
  const auto source = std::make_shared<SourceText>(SourceText{"--set", set});
  const std::size_t equals = set.find('=');
  if (equals == std::string::npos || set.find('\n') != std::string::npos) {
    diagnostics.error({source, 1, 1, 1}, "expected PATH=VALUE on one line, such as vars.keep=0.5");
    return;
  }
  // Names, each with its place.
  std::vector<Node> path;
  for (std::size_t begin = 0; begin <= equals;) {
    const std::size_t end = std::min(set.find('.', begin), equals);
    Node name;
    name.kind = Node::Kind::scalar;
    name.text = set.substr(begin, end - begin);
    name.where = {source, 1, static_cast<int>(begin) + 1, std::max(1, static_cast<int>(end - begin))};
    path.push_back(std::move(name));
    begin = end + 1;
  }
  // Spaces instead of the path keep the columns of the value.
  const auto padded =
      std::make_shared<SourceText>(SourceText{"--set", std::string(equals + 1, ' ') + set.substr(equals + 1)});
  Diagnostics found;
  Node value = parse_yaml(padded, found);
  for (const Diagnostic& d : found.all()) {
    Diagnostic moved = d;
    moved.where.source = source;
    for (auto& [where, message] : moved.related) where.source = source;
    diagnostics.add(std::move(moved));
  }
  if (found.has_errors()) return;
  const auto move_source = [&](Node& node, const auto& self) -> void {
    node.where.source = source;
    if (node.where.line == 0) node.where = {source, 1, static_cast<int>(equals) + 1, 1};
    for (Node& item : node.items) self(item, self);
    for (auto& [key, entry] : node.entries) self(key, self), self(entry, self);
  };
  move_source(value, move_source);

  const auto fail = [&](std::size_t part, const std::string& message) { diagnostics.error(path[part].where, message); };
  static const std::vector<std::string> roots{"vars", "steps", "inputs", "outputs"};
  const std::string& head = path[0].text;
  if (std::find(roots.begin(), roots.end(), head) == roots.end())
    return fail(0, fmt::format("unknown path '{}'{}", head,
                               did_you_mean(head, roots).empty() ? "; it must begin with vars, steps, inputs or outputs"
                                                                 : did_you_mean(head, roots)));
  if (path.size() < 2) return fail(0, fmt::format("expected a name after '{}.'", head));
  if (head == "vars") {
    if (path.size() > 2) return fail(2, "a variable has no parts");
    if (value.kind == Node::Kind::null) return fail(1, fmt::format("expected a value for {}", describe(path[1])));
    set_variable(root, path[1], value, diagnostics);
    return;
  }
  if (path.size() < 3) return fail(1, fmt::format("expected a setting after '{}.{}.'", head, path[1].text));
  if (head == "steps") {
    Node* step = find_step(root, path[1], diagnostics);
    if (step == nullptr) return;
    const std::string& key = path[2].text;
    if (std::find(step_keys().begin(), step_keys().end(), key) == step_keys().end())
      return fail(2, fmt::format("unknown key '{}'{}", key, did_you_mean(key, step_keys())));
    const bool has_parts = key == "in" || key == "with" || key == "resources" || key == "matrix";
    if (path.size() > (has_parts ? 4u : 3u))
      return fail(has_parts ? 4 : 3, fmt::format("'{}' has no parts", path[has_parts ? 3 : 2].text));
    if (path.size() == 3) return set_entry(*step, path[2], value);
    Node part;
    part.kind = Node::Kind::map;
    part.where = path[2].where;
    if (find(*step, key) == nullptr) step->entries.push_back({path[2], std::move(part)});
    return set_entry(*find(*step, key), path[3], value);
  }
  Node* section = find(root, head);
  Node* entry = section == nullptr ? nullptr : find(*section, path[1].text);
  const std::string singular = head.substr(0, head.size() - 1);
  if (entry == nullptr)
    return fail(
        1, fmt::format("unknown {} {}{}", singular, describe(path[1]), did_you_mean(path[1].text, keys_of(section))));
  const std::vector<std::string> keys = head == "inputs" ? std::vector<std::string>{"kind", "path"}
                                                         : std::vector<std::string>{"from", "path", "when_gates"};
  if (std::find(keys.begin(), keys.end(), path[2].text) == keys.end())
    return fail(2, fmt::format("unknown key '{}'{}", path[2].text, did_you_mean(path[2].text, keys)));
  if (path.size() > 3) return fail(3, fmt::format("'{}' has no parts", path[2].text));
  if (entry->kind == Node::Kind::map) set_entry(*entry, path[2], value);
}

}  // namespace fettle::host
