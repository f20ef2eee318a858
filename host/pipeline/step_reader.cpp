// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/step_reader.h"

#include "host/pipeline/keys.h"
#include "host/pipeline/overrides.h"
#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace fettle::host {

void StepReader::read(const RawStep& raw, const Names& names, std::vector<Step>& out) {
  for (const Variant& variant : raw.variants) {
    Node merged;
    const Node* node = raw.node;
    if (!variant.overrides.empty()) {
      merged = *raw.node;
      for (const Node* o : variant.overrides) merge(merged, *o);
      node = &merged;
    }
    Names own = names;
    if (!variant.label.empty()) (raw.base != nullptr ? own.each : own.matrix) = &variant.values;
    out.push_back(step(*node, {{&raw, &variant}, own}));
    if (out.size() > most_instances) {
      diagnostics_.error(raw.key->where, fmt::format("the pipeline has more than {} steps", grouped(most_instances)));
      return;
    }
  }
}

Step StepReader::step(const Node& node, const Instance& at) {
  const RawStep& raw = *at.place.step;
  const Variant& variant = *at.place.variant;
  Step step;
  step.base = raw.name;
  step.instance = variant.label;
  step.name = variant.label.empty() ? raw.name : fmt::format("{}[{}]", raw.name, variant.label);
  step.where = raw.key->where;
  const std::string what = fmt::format("step '{}'", raw.name);
  if (const Node* use = node.find("use")) {
    const Node id = at.names.replace(*use, diagnostics_);
    step.use_where = use->where;
    if (id.kind == Node::Kind::scalar && !id.text.empty())
      step.use = id.text;
    else
      diagnostics_.error(use->where,
                         fmt::format("{}: 'use': expected the id of a technique, found {}", what, describe(id)));
  } else {
    diagnostics_.error(raw.key->where, fmt::format("{} has no 'use'", what),
                       {"'use' names its technique: use: quantize.gguf"});
  }
  if (const Node* in = map_of(node, "in", what))
    for (const auto& [port, value] : in->entries) {
      const Node feed = at.names.replace(value, diagnostics_);
      std::vector<Reference> all;
      const std::string place = fmt::format("{}: port '{}'", what, port.text);
      if (feed.kind == Node::Kind::list) {
        for (const Node& item : feed.items)
          for (Reference& r : steps_.references(item, place, at.place, {})) all.push_back(std::move(r));
      } else {
        all = steps_.references(feed, place, at.place, {});
      }
      if (feed.kind != Node::Kind::null) step.in.emplace_back(port, std::move(all));
    }
  if (const Node* with = map_of(node, "with", what))
    for (const auto& [name, value] : with->entries) {
      Node replaced = at.names.replace(value, diagnostics_);
      if (replaced.kind != Node::Kind::null) step.with.push_back({name, std::move(replaced)});
    }
  if (const Node* after = node.find("after")) {
    const Node list = at.names.replace(*after, diagnostics_);
    const auto add = [&](const Node& item) {
      Node wide = item;  // a step with instances means all of them, or the one at hand inside `each`
      const RawStep* other = item.kind == Node::Kind::scalar ? steps_.find(item.text) : nullptr;
      if (other != nullptr && other->multiple() && !(raw.multiple() && raw.root() == other->root())) wide.text += "[*]";
      for (Reference& r : steps_.references(wide, what + ": 'after'", at.place, {false, false}))
        step.after.push_back(std::move(r));
    };
    if (list.kind == Node::Kind::list)
      for (const Node& item : list.items) add(item);
    else
      add(list);
  }
  if (const Node* when = node.find("when")) step.when = expression(*when, what + ": 'when'", at, false);
  if (const Node* gate = node.find("gate")) {
    if (gate->kind == Node::Kind::list)
      for (const Node& one : gate->items) add_gate(step, one, what, at);
    else
      add_gate(step, *gate, what, at);
  }
  if (const Node* seed = node.find("seed")) {
    const Node value = at.names.replace(*seed, diagnostics_);
    const auto number = read_scalar(value, FETTLE_TYPE_INT);
    if (!number || number->integer < 0)
      diagnostics_.error(value.where,
                         fmt::format("{}: 'seed': found {}, expected a whole number >= 0", what, describe(value)));
    else
      step.seed = static_cast<std::uint64_t>(number->integer);
  }
  if (const Node* isolate = node.find("isolate")) {
    const Node value = at.names.replace(*isolate, diagnostics_);
    const auto flag = read_scalar(value, FETTLE_TYPE_BOOL);
    if (!flag)
      diagnostics_.error(value.where,
                         fmt::format("{}: 'isolate': found {}, expected true or false", what, describe(value)));
    else
      step.isolate = flag->integer != 0;
  }
  if (const Node* resources = node.find("resources")) read_resources(step, *resources, what, at.names);
  return step;
}

const Node* StepReader::map_of(const Node& node, const char* key, const std::string& what) {
  const Node* map = node.find(key);
  if (map == nullptr || map->kind == Node::Kind::null) return nullptr;
  if (map->kind == Node::Kind::map) return map;
  diagnostics_.error(map->where, fmt::format("{}: '{}': expected a map, found {}", what, key, describe(*map)));
  return nullptr;
}

void StepReader::read_resources(Step& step, const Node& node, const std::string& what, const Names& names) {
  if (!check_keys(node, {"cores", "memory"}, what + ": 'resources'", diagnostics_)) return;
  if (const Node* cores = node.find("cores")) {
    const Node value = names.replace(*cores, diagnostics_);
    const auto number = read_scalar(value, FETTLE_TYPE_INT);
    if (!number || number->integer < 1 || number->integer > 65536)
      diagnostics_.error(value.where, fmt::format("{}: 'cores': found {}, expected a whole number from 1 to 65,536",
                                                  what, describe(value)));
    else
      step.resources.cores = static_cast<unsigned>(number->integer);
  }
  if (const Node* memory = node.find("memory")) {
    const Node value = names.replace(*memory, diagnostics_);
    const auto number = read_scalar(value, FETTLE_TYPE_SIZE);
    if (!number)
      diagnostics_.error(value.where, fmt::format("{}: 'memory': found {}, {}", what, describe(value),
                                                  expectation(FETTLE_TYPE_SIZE, value)));
    else
      step.resources.memory = static_cast<std::uint64_t>(number->integer);
  }
}

std::optional<Expression> StepReader::expression(const Node& node, const std::string& what, const Instance& at,
                                                 bool own_metrics) {
  if (node.kind != Node::Kind::scalar) {
    diagnostics_.error(node.where, fmt::format("{}: expected an expression, found {}", what, describe(node)));
    return std::nullopt;
  }
  Expression::Scope scope;
  scope.constant = [&](std::string_view name, const SourceRange& where) {
    return at.names.constant(name, where, diagnostics_);
  };
  scope.step = [&](std::string_view name, const std::optional<std::string>& instance,
                   const SourceRange& where) -> std::optional<std::string> {
    const RawStep* step = steps_.find(name);
    if (step == nullptr) {
      std::vector<std::string> notes;
      if (name.find('-') != std::string_view::npos) notes.emplace_back("to subtract, put spaces round the '-'");
      diagnostics_.error(where, fmt::format("{}: unknown step '{}'{}", what, name, did_you_mean(name, steps_.names())),
                         notes);
      return std::nullopt;
    }
    const std::vector<std::string> labels = steps_.instances(*step, instance, at.place, where);
    if (labels.empty()) return std::nullopt;
    if (labels.size() > 1 || (instance && *instance == "*")) {
      diagnostics_.error(where, fmt::format("{}: '{}[*]' is several steps, a metric comes from one", what, name));
      return std::nullopt;
    }
    return labels[0].empty() ? std::string(name) : fmt::format("{}[{}]", name, labels[0]);
  };
  auto parsed = Expression::parse(node.text, inside(node, 0, node.text.size()), diagnostics_, scope);
  if (!parsed) return std::nullopt;
  if (parsed->type() != Expression::Type::boolean) {
    diagnostics_.error(parsed->where(), fmt::format("{}: expected a comparison, this is {}", what,
                                                    parsed->type() == Expression::Type::number ? "a number" : "text"));
    return std::nullopt;
  }
  if (!own_metrics)
    for (const Expression::MetricRef& ref : parsed->metrics())
      if (ref.step.empty()) {
        diagnostics_.error(
            ref.where, fmt::format("{}: '{}' would be a metric of this step, which has not run yet", what, ref.metric),
            {fmt::format("write STEP.{} for that of another step", ref.metric)});
        return std::nullopt;
      }
  return parsed;
}

void StepReader::add_gate(Step& step, const Node& node, const std::string& what, const Instance& at) {
  if (!check_keys(node, {"require", "on_fail", "because"}, what + ": 'gate'", diagnostics_)) return;
  Gate gate;
  gate.where = node.where;
  bool good = true;
  if (const Node* require = node.find("require")) {
    auto parsed = expression(*require, what + ": 'require'", at, true);
    good = parsed.has_value();
    if (parsed) gate.require = std::move(*parsed);
  } else {
    diagnostics_.error(node.where, fmt::format("{}: the gate has no 'require'", what),
                       {"such as require: \"ppl < 20\""});
    good = false;
  }
  if (const Node* action = node.find("on_fail")) {
    static const std::map<std::string, GateAction, std::less<>> actions{
        {"stop", GateAction::stop}, {"fail", GateAction::fail}, {"warn", GateAction::warn}};
    const auto found = action->kind == Node::Kind::scalar ? actions.find(action->text) : actions.end();
    if (found == actions.end())
      diagnostics_.error(action->where,
                         fmt::format("{}: 'on_fail' is {}, must be one of stop, fail, warn{}", what, describe(*action),
                                     did_you_mean(action->text, {"stop", "fail", "warn"})));
    else
      gate.on_fail = found->second;
  }
  if (const Node* because = node.find("because")) {
    if (because->kind == Node::Kind::scalar)
      gate.because = because->text;
    else
      diagnostics_.error(because->where,
                         fmt::format("{}: 'because': expected text, found {}", what, describe(*because)));
  }
  if (good) step.gates.push_back(std::move(gate));
}

}  // namespace fettle::host
