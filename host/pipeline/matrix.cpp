// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/matrix.h"

#include "host/pipeline/keys.h"
#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace fettle::host {

namespace {

struct Choice {
  std::string label;
  Node value;
  const Node* overrides = nullptr;
};
struct Axis {
  std::string name;
  std::vector<Choice> choices;
};

bool check_label(const Node& node, const std::string& what, Diagnostics& diagnostics) {
  const std::string& label = node.text;
  const bool good = !label.empty() && label.size() <= 64 && std::all_of(label.begin(), label.end(), [](char c) {
    return static_cast<unsigned char>(c) > 0x20 && c != 0x7F && c != ',' && c != '[' && c != ']' && c != '*' &&
           c != '{' && c != '}';
  });
  if (!good)
    diagnostics.error(node.where, fmt::format("{}: {} cannot name an instance", what, describe(node)),
                      {"names of instances have no spaces, none of , [ ] { } * and at most 64 bytes"});
  return good;
}

std::optional<Axis> read_axis(const Node& key, const Node& node, const std::string& step, Diagnostics& diagnostics) {
  if (!check_name(key, "a matrix axis", diagnostics)) return std::nullopt;
  const std::string what = fmt::format("{}: matrix axis '{}'", step, key.text);
  Axis axis{key.text, {}};
  bool good = true;
  const auto add = [&](const Node& label, Choice choice) {
    if (!check_label(label, what, diagnostics)) {
      good = false;
    } else if (std::any_of(axis.choices.begin(), axis.choices.end(),
                           [&](const Choice& c) { return c.label == choice.label; })) {
      diagnostics.error(label.where, fmt::format("{}: {} stands there twice", what, describe(label)));
      good = false;
    } else {
      axis.choices.push_back(std::move(choice));
    }
  };
  if (node.kind == Node::Kind::list) {
    for (const Node& item : node.items) {
      if (item.kind == Node::Kind::scalar) {
        add(item, {item.text, item, nullptr});
      } else {
        diagnostics.error(item.where, fmt::format("{}: expected single values, found {}", what, describe(item)));
        good = false;
      }
    }
  } else if (node.kind == Node::Kind::map) {
    for (const auto& [name, value] : node.entries) {
      if (value.kind == Node::Kind::scalar) {
        add(name, {name.text, value, nullptr});
      } else if (value.kind == Node::Kind::null) {
        add(name, {name.text, name, nullptr});
      } else if (check_keys(value, {"use", "in", "with"}, fmt::format("{}, '{}'", what, name.text), diagnostics)) {
        add(name, {name.text, name, &value});
      } else {
        good = false;
      }
    }
  } else {
    diagnostics.error(
        node.where, fmt::format("{}: expected a list of values or a map of variants, found {}", what, describe(node)));
    return std::nullopt;
  }
  if (good && axis.choices.empty()) {
    diagnostics.error(node.where, fmt::format("{} is empty", what));
    good = false;
  }
  if (!good) return std::nullopt;
  return axis;
}

Variant combine(const std::vector<Axis>& axes, const std::vector<const Choice*>& choices) {
  Variant variant;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const Choice& choice = *choices[i];
    variant.label += (i ? "," : "") + choice.label;
    const std::uint32_t type = read_scalar(choice.value, FETTLE_TYPE_FLOAT)  ? FETTLE_TYPE_FLOAT
                               : read_scalar(choice.value, FETTLE_TYPE_BOOL) ? FETTLE_TYPE_BOOL
                                                                             : FETTLE_TYPE_STRING;
    variant.values.push_back({axes[i].name, choice.value, type});
    if (choice.overrides != nullptr) variant.overrides.push_back(choice.overrides);
  }
  return variant;
}

/// The choice of each axis that one entry of `include` or `exclude` names; null where it names none.
std::optional<std::vector<const Choice*>> read_selection(const Node& node, const std::vector<Axis>& axes, bool complete,
                                                         const std::string& what, Diagnostics& diagnostics) {
  std::vector<std::string> names;
  for (const Axis& axis : axes) names.push_back(axis.name);
  if (!check_keys(node, names, what, diagnostics)) return std::nullopt;
  std::vector<const Choice*> selection;
  for (const Axis& axis : axes) {
    const Node* label = node.find(axis.name);
    if (label == nullptr) {
      if (complete) {
        diagnostics.error(node.where, fmt::format("{}: names no '{}'", what, axis.name), {"an entry names every axis"});
        return std::nullopt;
      }
      selection.push_back(nullptr);
      continue;
    }
    const auto found =
        std::find_if(axis.choices.begin(), axis.choices.end(), [&](const Choice& c) { return c.label == label->text; });
    if (found == axis.choices.end()) {
      std::vector<std::string> labels;
      for (const Choice& c : axis.choices) labels.push_back(c.label);
      diagnostics.error(label->where, fmt::format("{}: axis '{}' has no {}{}", what, axis.name, describe(*label),
                                                  did_you_mean(label->text, labels)));
      return std::nullopt;
    }
    selection.push_back(&*found);
  }
  return selection;
}

}  // namespace

std::vector<Variant> expand_matrix(const Node& matrix, const std::string& what, Diagnostics& diagnostics) {
  if (matrix.kind != Node::Kind::map) {
    diagnostics.error(matrix.where,
                      fmt::format("{}: 'matrix': expected a map of axes, found {}", what, describe(matrix)));
    return {};
  }
  std::vector<Axis> axes;
  bool good = true;
  std::size_t total = 1;
  for (const auto& [key, value] : matrix.entries) {
    if (key.text == "include" || key.text == "exclude") continue;
    std::optional<Axis> axis = read_axis(key, value, what, diagnostics);
    good &= axis.has_value();
    if (!axis) continue;
    total *= axis->choices.size();
    if (total > most_instances) {
      diagnostics.error(key.where,
                        fmt::format("{}: the matrix has more than {} instances", what, grouped(most_instances)));
      return {};
    }
    axes.push_back(std::move(*axis));
  }
  if (!good) return {};
  if (axes.empty()) {
    diagnostics.error(matrix.where, fmt::format("{}: 'matrix' has no axis", what));
    return {};
  }

  std::vector<std::vector<const Choice*>> combinations(1);
  for (const Axis& axis : axes) {
    std::vector<std::vector<const Choice*>> longer;
    for (const auto& begun : combinations)
      for (const Choice& choice : axis.choices) {
        longer.push_back(begun);
        longer.back().push_back(&choice);
      }
    combinations = std::move(longer);
  }
  for (const char* key : {"exclude", "include"}) {
    const Node* list = matrix.find(key);
    if (list == nullptr) continue;
    const std::string place = fmt::format("{}: '{}'", what, key);
    if (list->kind != Node::Kind::list) {
      diagnostics.error(list->where, fmt::format("{}: expected a list of maps, found {}", place, describe(*list)));
      continue;
    }
    const bool excluding = std::string_view(key) == "exclude";
    for (const Node& entry : list->items) {
      const auto selection = read_selection(entry, axes, !excluding, place, diagnostics);
      if (!selection) continue;
      const auto matches = [&](const std::vector<const Choice*>& combination) {
        for (std::size_t i = 0; i < axes.size(); ++i)
          if ((*selection)[i] != nullptr && (*selection)[i] != combination[i]) return false;
        return true;
      };
      if (excluding) {
        if (std::erase_if(combinations, matches) == 0)
          diagnostics.warning(entry.where, fmt::format("{}: this entry excludes nothing", place));
      } else if (std::none_of(combinations.begin(), combinations.end(), matches)) {
        combinations.push_back(*selection);
      }
    }
  }
  if (combinations.empty()) diagnostics.error(matrix.where, fmt::format("{}: 'exclude' leaves no instance", what));
  std::vector<Variant> variants;
  for (const auto& combination : combinations) variants.push_back(combine(axes, combination));
  return variants;
}

}  // namespace fettle::host
