// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/raw_steps.h"

#include "host/pipeline/keys.h"
#include "host/pipeline/overrides.h"
#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>

namespace fettle::host {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::vector<std::string> some(names.begin(),
                                names.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(names.size(), 12)));
  std::string out;
  for (const std::string& n : some) out += (out.empty() ? "" : " ") + n;
  return names.size() > some.size() ? fmt::format("{} and {} more", out, names.size() - some.size()) : out;
}

}  // namespace

void RawSteps::collect(const Node& root, const Names& names) {
  const Node* steps = root.find("steps");
  if (steps == nullptr || steps->kind != Node::Kind::map || steps->entries.empty()) {
    diagnostics_.error(steps == nullptr ? root.where : steps->where,
                       steps == nullptr
                           ? "a pipeline needs 'steps:'"
                           : fmt::format("steps: expected a map of steps, found {}",
                                         steps->kind == Node::Kind::map ? "an empty one" : describe(*steps)));
    return;
  }
  for (const auto& [key, node] : steps->entries) {
    RawStep raw;
    raw.key = &key;
    raw.node = &node;
    raw.name = key.text;
    raw.broken = !check_name(key, "a step", diagnostics_);
    if (!check_keys(node, step_keys(), fmt::format("step '{}'", key.text), diagnostics_)) raw.broken = true;
    step_names_.push_back(key.text);
    by_name_[key.text] = steps_.size();
    steps_.push_back(std::move(raw));
  }
  for (RawStep& raw : steps_) resolve_instances(raw, names);
}

void RawSteps::resolve_instances(RawStep& raw, const Names& names) {
  if (raw.resolved || raw.resolving) return;
  raw.resolving = true;
  const Node* matrix = raw.node->find("matrix");
  const Node* each = raw.node->find("each");
  const std::string what = fmt::format("step '{}'", raw.name);
  if (matrix != nullptr && each != nullptr) {
    diagnostics_.error(each->where, fmt::format("{}: 'matrix' and 'each' exclude one another", what));
    raw.broken = true;
  } else if (matrix != nullptr) {
    matrices_.push_back(names.replace(*matrix, diagnostics_));
    raw.variants = expand_matrix(matrices_.back(), what, diagnostics_);
    raw.broken |= raw.variants.empty();
  } else if (each != nullptr) {
    raw.broken |= !resolve_each(raw, *each, what, names);
  }
  if (raw.variants.empty()) raw.variants.push_back({});
  raw.resolving = false;
  raw.resolved = true;
}

bool RawSteps::resolve_each(RawStep& raw, const Node& each, const std::string& what, const Names& names) {
  RawStep* base = each.kind == Node::Kind::scalar ? find(each.text) : nullptr;
  if (base == nullptr) {
    diagnostics_.error(each.where, fmt::format("{}: 'each': unknown step {}{}", what, describe(each),
                                               did_you_mean(each.text, step_names_)));
    return false;
  }
  if (base->resolving) {
    diagnostics_.error(each.where, fmt::format("{}: 'each: {}' leads back to '{}'", what, each.text, raw.name));
    return false;
  }
  resolve_instances(*base, names);
  if (base->broken) return false;
  if (!base->multiple()) {
    diagnostics_.error(each.where, fmt::format("{}: 'each': step '{}' has no matrix", what, base->name));
    return false;
  }
  raw.base = base;
  for (const Variant& v : base->variants) {
    Variant mine;
    mine.label = v.label;
    mine.values = v.values;
    std::erase_if(mine.values, [](const Binding& b) { return b.name == "instance"; });
    Binding instance;
    instance.name = "instance";
    instance.type = FETTLE_TYPE_STRING;
    instance.value.kind = Node::Kind::scalar;
    instance.value.quoted = true;
    instance.value.text = v.label;
    mine.values.push_back(std::move(instance));
    raw.variants.push_back(std::move(mine));
  }
  return true;
}

RawStep* RawSteps::find(std::string_view name) {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &steps_[found->second];
}

std::vector<std::string> RawSteps::instances(const RawStep& step, const std::optional<std::string>& written,
                                             Place place, const SourceRange& where) {
  if (step.broken) return {};
  if (!step.multiple()) {
    if (written)
      diagnostics_.error(where, fmt::format("step '{}' has no instances, found '[{}]'", step.name, *written));
    return written ? std::vector<std::string>{} : std::vector<std::string>{""};
  }
  const std::vector<std::string> labels = step.labels();
  if (written && *written == "*") return labels;
  if (written) {
    if (std::find(labels.begin(), labels.end(), *written) != labels.end()) return {*written};
    diagnostics_.error(
        where, fmt::format("step '{}' has no instance '{}'{}", step.name, *written, did_you_mean(*written, labels)),
        {fmt::format("instances: {}", joined(labels))});
    return {};
  }
  if (place.step != nullptr && place.step->multiple() && place.step->root() == step.root())
    return {place.variant->label};
  std::vector<std::string> full;
  for (const std::string& label : labels) full.push_back(fmt::format("{}[{}]", step.name, label));
  diagnostics_.error(where, fmt::format("step '{}' has {} instances; say which", step.name, labels.size()),
                     {fmt::format("one of {}, or {}[*] where a list is taken", joined(full), step.name),
                      fmt::format("or make one of this step for each: 'each: {}'", step.name)});
  return {};
}

std::vector<Reference> RawSteps::references(const Node& written, const std::string& what, Place place,
                                            Allowed allowed) {
  if (written.kind == Node::Kind::null) return {};  // its variable was at fault, or `null` takes it away
  if (written.kind != Node::Kind::scalar) {
    diagnostics_.error(written.where, fmt::format("{}: expected the name of a step{}, found {}", what,
                                                  allowed.inputs ? " or input" : "", describe(written)));
    return {};
  }
  const std::string& text = written.text;
  if (text.find("${") != std::string::npos) return {};
  const std::size_t name_end = std::min(text.find_first_of(".["), text.size());
  Reference reference;
  reference.name = text.substr(0, name_end);
  reference.where = written.where;
  std::size_t at = name_end;
  bool good = is_name(reference.name);
  if (good && at < text.size() && text[at] == '[') {
    const std::size_t close = text.find(']', at);
    good = close != std::string::npos && close > at + 1;
    if (good) {
      reference.instance = text.substr(at + 1, close - at - 1);
      at = close + 1;
    }
  }
  if (good && at < text.size()) {
    good = text[at] == '.' && is_name(std::string_view(text).substr(at + 1));
    if (good) reference.port = text.substr(at + 1);
  }
  if (!good) {
    diagnostics_.error(written.where, fmt::format("{}: {} is not a reference", what, describe(written)),
                       {"write step, step.port, step[instance] or step[instance].port"});
    return {};
  }
  const RawStep* step = find(reference.name);
  if (step == nullptr) {
    const bool is_input = std::find(input_names_.begin(), input_names_.end(), reference.name) != input_names_.end();
    if (is_input && allowed.inputs) {
      if (reference.instance || reference.port) {
        diagnostics_.error(written.where, fmt::format("{}: input '{}' has no {}", what, reference.name,
                                                      reference.instance ? "instances" : "ports"));
        return {};
      }
      used_inputs_.insert(reference.name);
      return {std::move(reference)};
    }
    std::vector<std::string> known = step_names_;
    if (allowed.inputs) known.insert(known.end(), input_names_.begin(), input_names_.end());
    diagnostics_.error(inside(written, 0, name_end),
                       is_input ? fmt::format("{}: '{}' is an input, expected a step", what, reference.name)
                                : fmt::format("{}: unknown step{} '{}'{}", what, allowed.inputs ? " or input" : "",
                                              reference.name, did_you_mean(reference.name, known)));
    return {};
  }
  if (reference.port && !allowed.ports) {
    diagnostics_.error(written.where, fmt::format("{}: expected a step, found {}", what, describe(written)));
    return {};
  }
  std::vector<Reference> out;
  for (const std::string& label : instances(*step, reference.instance, place, written.where)) {
    Reference one = reference;
    one.instance = label.empty() ? std::nullopt : std::optional(label);
    out.push_back(std::move(one));
  }
  return out;
}

}  // namespace fettle::host
