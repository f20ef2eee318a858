// SPDX-License-Identifier: Apache-2.0
#include "host/plan/bind_params.h"

#include "host/pipeline/keys.h"
#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <utility>

namespace fettle::host {

namespace {

std::vector<std::string> names_of(const char* const* list) {
  std::vector<std::string> names;
  for (; list != nullptr && *list != nullptr; ++list) names.emplace_back(*list);
  return names;
}

std::string number_text(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return {buffer, end};
}

std::string limit_text(const fettle_param& param, double limit) {
  const bool whole = param.type == FETTLE_TYPE_INT || param.type == FETTLE_TYPE_COUNT || param.type == FETTLE_TYPE_SIZE;
  const bool long_number = whole && limit >= 10'000 && limit < 9e15;
  std::string text = long_number ? grouped(static_cast<std::uint64_t>(limit)) : number_text(limit);
  if (param.type == FETTLE_TYPE_DURATION) text += "s";
  if (param.type == FETTLE_TYPE_SIZE) text += "B";
  return text;
}

std::string range_text(const fettle_param& param) {
  const std::string unit = param.unit == nullptr ? "" : fmt::format(" ({})", param.unit);
  const bool low = param.flags & FETTLE_PARAM_HAS_MIN, high = param.flags & FETTLE_PARAM_HAS_MAX;
  if (low && high)
    return fmt::format("must be from {} to {}{}", limit_text(param, param.min), limit_text(param, param.max), unit);
  return low ? fmt::format("must be at least {}{}", limit_text(param, param.min), unit)
             : fmt::format("must be at most {}{}", limit_text(param, param.max), unit);
}

fettle_value c_value(const ParamValue& value, std::vector<std::unique_ptr<std::vector<fettle_value>>>& nested) {
  fettle_value c{};
  c.type = value.type;
  c.integer = value.integer;
  c.real = value.real;
  c.text = value.text.c_str();
  c.key = value.key.empty() ? nullptr : value.key.c_str();
  if (!value.items.empty()) {
    auto items = std::make_unique<std::vector<fettle_value>>();
    for (const ParamValue& item : value.items) {
      items->push_back(c_value(item, nested));
      items->back().key = value.shape == FETTLE_MAP ? item.key.c_str() : nullptr;
    }
    c.items = items->data();
    c.count = static_cast<std::uint32_t>(items->size());
    nested.push_back(std::move(items));
  }
  return c;
}

}  // namespace

ParamSet::ParamSet(std::vector<ParamValue> values) : values_(std::move(values)) {
  c_values_.reserve(values_.size());
  for (const ParamValue& value : values_) c_values_.push_back(c_value(value, nested_));
}

std::optional<ParamSet> ParamBinder::bind(const Technique& technique, const Step& step) {
  const fettle_technique& table = *technique.table;
  const std::string step_name = fmt::format("step '{}'", step.base);
  std::vector<std::string> known;
  for (std::uint32_t i = 0; i < table.param_count; ++i) known.emplace_back(table.params[i].name);
  bool good = true;
  for (const auto& [key, node] : step.with) {
    if (std::find(known.begin(), known.end(), key.text) != known.end()) continue;
    good = false;
    const std::string hint = did_you_mean(key.text, known);
    diagnostics_.error(
        key.where, fmt::format("{}: {} has no parameter '{}'{}", step_name, table.id, key.text, hint),
        hint.empty() ? std::vector<std::string>{known.empty() ? "it has no parameters" : "parameters: " + listed(known)}
                     : std::vector<std::string>{});
  }
  std::vector<ParamValue> values;
  for (std::uint32_t i = 0; i < table.param_count; ++i) {
    const fettle_param& param = table.params[i];
    const std::string what = fmt::format("{}: parameter '{}'", step_name, param.name);
    const auto written = std::find_if(step.with.begin(), step.with.end(),
                                      [&](const auto& entry) { return entry.key.text == param.name; });
    std::optional<ParamValue> bound;
    if (written != step.with.end()) {
      if (written->value.text.find("${") == std::string::npos || written->value.kind != Node::Kind::scalar)
        bound = value(param, written->value, what);  // otherwise its variable was at fault
    } else if (param.flags & FETTLE_PARAM_REQUIRED) {
      diagnostics_.error(step.where, fmt::format("{}: {} needs the parameter '{}'", step_name, table.id, param.name),
                         {fmt::format("{}: {}", param.name, param.help)});
    } else {
      bound = default_of(param, what);
    }
    good &= bound.has_value();
    if (bound) values.push_back(std::move(*bound));
  }
  if (!good) return std::nullopt;
  ParamSet set(std::move(values));
  if (table.validate != nullptr) {
    fettle_error error{};
    if (table.validate(set.c_values(), table.param_count, &error) != FETTLE_OK) {
      error.where[sizeof error.where - 1] = error.message[sizeof error.message - 1] = '\0';
      const std::string_view at = error.where;
      SourceRange where = step.where;
      for (const auto& [key, node] : step.with)
        if (key.text == at) where = node.where;
      diagnostics_.error(where, at.empty() ? fmt::format("{}: {}", step_name, error.message)
                                           : fmt::format("{}: parameter '{}': {}", step_name, at, error.message));
      return std::nullopt;
    }
  }
  return set;
}

std::optional<ParamValue> ParamBinder::value(const fettle_param& param, const Node& node, const std::string& what) {
  if (param.shape == FETTLE_SCALAR) return single(param, node, what);
  ParamValue out;
  out.type = param.type;
  out.shape = param.shape;
  const bool list = param.shape == FETTLE_LIST;
  if (node.kind != (list ? Node::Kind::list : Node::Kind::map)) {
    diagnostics_.error(node.where, fmt::format("{}: found {}, expected a {} of {} values", what, describe(node),
                                               list ? "list" : "map", type_name(param.type)));
    return std::nullopt;
  }
  bool good = true;
  const auto add = [&](const Node& item, const std::string& key) {
    std::optional<ParamValue> bound = single(param, item, what);
    good &= bound.has_value();
    if (!bound) return;
    bound->key = key;
    out.items.push_back(std::move(*bound));
  };
  for (const Node& item : node.items) add(item, {});
  for (const auto& [key, item] : node.entries) add(item, key.text);
  if (!good) return std::nullopt;
  return out;
}

std::optional<ParamValue> ParamBinder::single(const fettle_param& param, const Node& node, const std::string& what) {
  const std::optional<Scalar> scalar = read_scalar(node, param.type);
  if (!scalar) {
    diagnostics_.error(node.where,
                       fmt::format("{}: found {}, {}", what, describe(node), expectation(param.type, node)));
    return std::nullopt;
  }
  ParamValue out;
  out.type = param.type;
  out.integer = scalar->integer;
  out.text = scalar->text;
  const bool real = param.type == FETTLE_TYPE_FLOAT || param.type == FETTLE_TYPE_DURATION;
  if (real) out.real = scalar->real;
  const bool is_text = param.type == FETTLE_TYPE_STRING || param.type == FETTLE_TYPE_PATH;
  if (!is_text && ((param.flags & FETTLE_PARAM_HAS_MIN && scalar->real < param.min) ||
                   (param.flags & FETTLE_PARAM_HAS_MAX && scalar->real > param.max))) {
    diagnostics_.error(node.where, fmt::format("{} is {}, {}", what, node.text, range_text(param)));
    return std::nullopt;
  }
  if (const std::vector<std::string> choices = names_of(param.choices);
      !choices.empty() && std::find(choices.begin(), choices.end(), node.text) == choices.end()) {
    diagnostics_.error(node.where, fmt::format("{} is {}, must be one of {}{}", what, describe(node), listed(choices),
                                               did_you_mean(node.text, choices)));
    return std::nullopt;
  }
  if (param.type == FETTLE_TYPE_PATH) {
    out.text = (std::filesystem::path(directory_) / out.text).lexically_normal().string();
    std::error_code error;
    if (!std::filesystem::exists(out.text, error)) {
      Diagnostic missing;
      missing.where = node.where;
      missing.message = fmt::format("{}: no file or folder '{}'", what, node.text);
      missing.notes.push_back(fmt::format("looked for {}", out.text));
      missing.category = Diagnostic::Category::input_missing;
      diagnostics_.add(std::move(missing));
      return std::nullopt;
    }
    if (store_ != nullptr) {
      const Result<Artifact> artifact = store_->link("file", {out.text});
      if (!artifact.ok()) {
        diagnostics_.error(node.where, fmt::format("{}: {}", what, artifact.error().message()));
        return std::nullopt;
      }
      out.content_digest = artifact->digest;
    }
  }
  return out;
}

std::optional<ParamValue> ParamBinder::default_of(const fettle_param& param, const std::string& what) {
  if (param.default_text == nullptr) return ParamValue{};  // optional: FETTLE_TYPE_NONE
  if (const auto found = defaults_.find(&param); found != defaults_.end()) return found->second;
  // An empty text or path means "not given"; it names no file.
  Diagnostics found;
  const Node node = parse_yaml(std::make_shared<SourceText>(SourceText{what + ": default", param.default_text}), found);
  std::optional<ParamValue> bound;
  if (param.type == FETTLE_TYPE_PATH && param.shape == FETTLE_SCALAR && node.kind == Node::Kind::scalar &&
      node.text.empty()) {
    bound.emplace();
    bound->type = FETTLE_TYPE_PATH;
  } else if (!found.has_errors()) {
    bound = value(param, node, what);
  }
  for (const Diagnostic& d : found.all()) diagnostics_.add(d);
  if (bound) defaults_.emplace(&param, *bound);
  return bound;
}

}  // namespace fettle::host
