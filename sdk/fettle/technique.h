// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/abi.h"
#include "fettle/result.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

// What a C++ author writes against: a plain struct of parameters, a Description of it, and a technique class.
// docs/tutorial/first-plugin.md builds one step by step; <fettle/plugin.h> turns it into the C tables of abi.h.

namespace fettle {

/// Parameter types with a unit. Each is a plain number once it reaches the technique.
struct Count {
  std::int64_t value = 0;
};  ///< tokens, steps, ...: written 2M, 512k
struct Bytes {
  std::int64_t value = 0;
};  ///< written 24GiB, 500MB
struct Seconds {
  double value = 0;
};  ///< written 90s, 15min
struct Path {
  std::string value;
};  ///< a file or folder outside the store; absolute when it arrives

/// One artifact at an input port. Borrowed: valid during estimate() or run().
class Input {
 public:
  explicit Input(const fettle_input& raw) : raw_(&raw) {}
  std::string_view port() const { return raw_->port; }
  std::string_view kind() const { return raw_->kind; }
  /// The artifact's folder, read only. Empty while planning if it does not exist yet.
  std::string path() const { return raw_->path ? raw_->path : ""; }
  std::string_view digest() const { return raw_->digest ? raw_->digest : ""; }
  /// "" if nobody knows it (docs/reference/artifacts.md lists the keys).
  std::string_view attribute(std::string_view key) const {
    for (std::uint32_t i = 0; i < raw_->attribute_count; ++i)
      if (key == raw_->attributes[i].key) return raw_->attributes[i].value;
    return {};
  }
  /// The attribute as a number, or `otherwise`.
  double number(std::string_view key, double otherwise = 0) const {
    const std::string text(attribute(key));
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    return !text.empty() && *end == '\0' ? value : otherwise;
  }
  std::span<const fettle_attribute> attributes() const { return {raw_->attributes, raw_->attribute_count}; }

 private:
  const fettle_input* raw_;
};

/// The inputs of a step, by port.
class Inputs {
 public:
  explicit Inputs(const fettle_run& run) : run_(&run) {}
  /// The artifact at a required port, or at an optional one that is known to be connected.
  Input at(std::string_view port) const { return *find(port); }
  /// Nothing if the optional port is not connected.
  std::optional<Input> find(std::string_view port) const {
    for (std::uint32_t i = 0; i < run_->input_count; ++i)
      if (port == run_->inputs[i].port) return Input(run_->inputs[i]);
    return std::nullopt;
  }
  /// All artifacts of a list port, in the order written.
  std::vector<Input> all(std::string_view port) const {
    std::vector<Input> found;
    for (std::uint32_t i = 0; i < run_->input_count; ++i)
      if (port == run_->inputs[i].port) found.emplace_back(run_->inputs[i]);
    return found;
  }

 private:
  const fettle_run* run_;
};

/// Everything a running step may touch. Every member may be called from any thread.
class Context {
 public:
  explicit Context(const fettle_run& run)
      : inputs(run),
        run_(&run),
        metrics_(static_cast<const fettle_metrics*>(run.host->service(run.host, FETTLE_SERVICE_METRICS))) {}

  const Inputs inputs;

  /// The empty folder that becomes the artifact of this output port if run() succeeds.
  std::string output(std::string_view port) const {
    for (std::uint32_t i = 0; i < run_->output_count; ++i)
      if (port == run_->outputs[i].port) return run_->outputs[i].path;
    return {};
  }

  /// Cores admitted for this step. The caller already stands in a TBB arena of that size or larger, for cores that
  /// other steps leave idle: use tbb::parallel_for and start no threads of your own.
  unsigned threads() const { return run_->threads; }
  std::uint64_t seed() const { return run_->seed; }
  std::uint64_t memory_budget() const { return run_->memory_budget; }
  /// A folder for temporary files, removed after the step.
  std::string scratch() const { return run_->scratch; }
  /// A folder that survives a killed step until the step commits: look there first, continue from what you find.
  std::string checkpoint() const { return run_->checkpoint; }

  void debug(const std::string& message) const { run_->host->log(run_->host, FETTLE_LOG_DEBUG, message.c_str()); }
  void info(const std::string& message) const { run_->host->log(run_->host, FETTLE_LOG_INFO, message.c_str()); }
  /// Kept in the run record and shown again at the end.
  void warn(const std::string& message) const { run_->host->log(run_->host, FETTLE_LOG_WARNING, message.c_str()); }

  /// done of total units of a phase; total 0: unknown.
  void progress(const char* phase, std::uint64_t done, std::uint64_t total) const {
    run_->host->progress(run_->host, phase, done, total);
  }
  bool cancelled() const { return run_->host->cancelled(run_->host) != 0; }

  /// A number about the result, for the record, the report and the gates.
  void metric(const char* name, double value, const char* unit = nullptr, double standard_error = NAN) const {
    if (metrics_) metrics_->scalar(run_->host, name, value, standard_error, unit);
  }
  /// A point of a series, for example the loss at a step.
  void point(const char* series, double x, double y) const {
    if (metrics_) metrics_->point(run_->host, series, x, y);
  }

  /// A table of an optional service by its id, or null.
  const void* service(const char* id) const { return run_->host->service(run_->host, id); }

 private:
  const fettle_run* run_;
  const fettle_metrics* metrics_;
};

/// The Status to return from run() once cancelled() is true.
inline Status cancelled_status() { return {Code::cancelled, "cancelled"}; }

/// What a step will need, and what its outputs will be. Filled by estimate().
class Estimate {
 public:
  explicit Estimate(fettle_estimate& raw) : raw_(&raw) {}
  Estimate& memory(double bytes) { return raw_->memory_bytes = whole(bytes), *this; }
  Estimate& disk(double bytes) { return raw_->disk_bytes = whole(bytes), *this; }
  Estimate& flops(double total) { return raw_->flops = total, *this; }
  Estimate& max_threads(unsigned threads) { return raw_->max_threads = threads, *this; }
  /// Foretells an attribute of an output port.
  Estimate& attribute(const char* output, const std::string& key, const std::string& value) {
    raw_->attribute(raw_->self, output, key.c_str(), value.c_str());
    return *this;
  }
  /// The output has all attributes of the input; later calls of attribute() override some.
  Estimate& like(const char* output, const Input& input) {
    for (const fettle_attribute& a : input.attributes()) raw_->attribute(raw_->self, output, a.key, a.value);
    return *this;
  }

 private:
  static std::uint64_t whole(double bytes) { return bytes > 0 ? static_cast<std::uint64_t>(bytes) : 0; }
  fettle_estimate* raw_;
};

/// Limits and looks of one parameter: bounds, unit, choices.
struct Rule {
  std::optional<double> min, max;
  const char* unit = nullptr;
  std::vector<const char*> choices;
};
inline Rule in_range(double min, double max, const char* unit = nullptr) { return {min, max, unit, {}}; }
inline Rule at_least(double min, const char* unit = nullptr) { return {min, std::nullopt, unit, {}}; }
inline Rule one_of(std::vector<const char*> choices) {
  return {std::nullopt, std::nullopt, nullptr, std::move(choices)};
}

namespace detail {

/// How each C++ type of a parameter maps to the C declaration and value.
template <class T>
struct ParamType;

template <class T, fettle_type Tag>
struct ScalarParam {
  static constexpr fettle_type type = Tag;
  static constexpr fettle_shape shape = FETTLE_SCALAR;
  static constexpr bool optional = false;
};

inline std::string yaml_quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}
/// The shortest decimal that reads back as the same double.
inline std::string shortest(double value) {
  char buffer[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(buffer, sizeof buffer, "%.*g", digits, value);
    if (std::strtod(buffer, nullptr) == value) break;
  }
  return buffer;
}

template <>
struct ParamType<bool> : ScalarParam<bool, FETTLE_TYPE_BOOL> {
  static bool read(const fettle_value& v) { return v.integer != 0; }
  static std::string text(bool v) { return v ? "true" : "false"; }
};
template <>
struct ParamType<std::int64_t> : ScalarParam<std::int64_t, FETTLE_TYPE_INT> {
  static std::int64_t read(const fettle_value& v) { return v.integer; }
  static std::string text(std::int64_t v) { return std::to_string(v); }
};
template <>
struct ParamType<int> : ScalarParam<int, FETTLE_TYPE_INT> {
  static int read(const fettle_value& v) { return static_cast<int>(v.integer); }
  static std::string text(int v) { return std::to_string(v); }
};
template <>
struct ParamType<double> : ScalarParam<double, FETTLE_TYPE_FLOAT> {
  static double read(const fettle_value& v) { return v.real; }
  static std::string text(double v) { return shortest(v); }
};
template <>
struct ParamType<std::string> : ScalarParam<std::string, FETTLE_TYPE_STRING> {
  static std::string read(const fettle_value& v) { return v.text; }
  static std::string text(const std::string& v) { return detail::yaml_quoted(v); }
};
template <>
struct ParamType<Count> : ScalarParam<Count, FETTLE_TYPE_COUNT> {
  static Count read(const fettle_value& v) { return {v.integer}; }
  static std::string text(Count v) { return std::to_string(v.value); }
};
template <>
struct ParamType<Bytes> : ScalarParam<Bytes, FETTLE_TYPE_SIZE> {
  static Bytes read(const fettle_value& v) { return {v.integer}; }
  static std::string text(Bytes v) { return std::to_string(v.value) + "B"; }
};
template <>
struct ParamType<Seconds> : ScalarParam<Seconds, FETTLE_TYPE_DURATION> {
  static Seconds read(const fettle_value& v) { return {v.real}; }
  static std::string text(Seconds v) { return shortest(v.value) + "s"; }
};
template <>
struct ParamType<Path> : ScalarParam<Path, FETTLE_TYPE_PATH> {
  static Path read(const fettle_value& v) { return {v.text}; }
  static std::string text(const Path& v) { return detail::yaml_quoted(v.value); }
};
template <class T>
struct ParamType<std::optional<T>> : ParamType<T> {
  static constexpr bool optional = true;
  static std::optional<T> read(const fettle_value& v) {
    if (v.type == FETTLE_TYPE_NONE) return std::nullopt;
    return ParamType<T>::read(v);
  }
};
template <class T>
struct ParamType<std::vector<T>> {
  static constexpr fettle_type type = ParamType<T>::type;
  static constexpr fettle_shape shape = FETTLE_LIST;
  static constexpr bool optional = false;
  static std::vector<T> read(const fettle_value& v) {
    std::vector<T> out;
    for (std::uint32_t i = 0; i < v.count; ++i) out.push_back(ParamType<T>::read(v.items[i]));
    return out;
  }
  static std::string text(const std::vector<T>& v) {
    std::string out = "[";
    for (const T& item : v) out += (out.size() > 1 ? ", " : "") + ParamType<T>::text(item);
    return out + "]";
  }
};
/// A YAML map, in the order written: order matters where the first matching glob wins.
template <class T>
struct ParamType<std::vector<std::pair<std::string, T>>> {
  static constexpr fettle_type type = ParamType<T>::type;
  static constexpr fettle_shape shape = FETTLE_MAP;
  static constexpr bool optional = false;
  static std::vector<std::pair<std::string, T>> read(const fettle_value& v) {
    std::vector<std::pair<std::string, T>> out;
    for (std::uint32_t i = 0; i < v.count; ++i) out.emplace_back(v.items[i].key, ParamType<T>::read(v.items[i]));
    return out;
  }
  static std::string text(const std::vector<std::pair<std::string, T>>& v) {
    std::string out = "{";
    for (const auto& [key, item] : v)
      out += (out.size() > 1 ? ", " : "") + detail::yaml_quoted(key) + ": " + ParamType<T>::text(item);
    return out + "}";
  }
};

}  // namespace detail

/// Marks a parameter that has no default and must be written in the pipeline.
struct Required {};
inline constexpr Required required{};

/// What a technique is, as data. Built once, by describe(); `Params` is a plain struct whose member initialisers are
/// the defaults.
template <class Params>
class Description {
 public:
  Description(const char* id, const char* help) : id_(id), help_(help) {}

  /// Raise it whenever the same inputs give other bytes: it is part of every cache key.
  Description& epoch(std::uint32_t number) { return epoch_ = number, *this; }
  Description& version(const char* text) { return version_ = text, *this; }
  Description& reference(const char* text) { return reference_ = text, *this; }
  Description& determinism(fettle_determinism value) { return determinism_ = value, *this; }
  /// A service (by id) without which the technique cannot work.
  Description& needs(const char* service) { return services_.push_back(service), *this; }

  Description& input(const char* name, const char* kind, const char* help, const char* accepts = nullptr,
                     std::uint32_t flags = 0) {
    return inputs_.push_back({name, help, kind, accepts, flags, 0}), *this;
  }
  Description& optional_input(const char* name, const char* kind, const char* help, const char* accepts = nullptr) {
    return input(name, kind, help, accepts, FETTLE_PORT_OPTIONAL);
  }
  Description& list_input(const char* name, const char* kind, const char* help, const char* accepts = nullptr) {
    return input(name, kind, help, accepts, FETTLE_PORT_LIST);
  }
  /// The first output is the default one: `in: {model: step}` means it.
  Description& output(const char* name, const char* kind, const char* help) {
    return outputs_.push_back({name, help, kind, nullptr, 0, 0}), *this;
  }

  template <class T>
  Description& param(const char* name, T Params::*member, const char* help, Rule rule = {}) {
    add(name, member, help, rule, false);
    return *this;
  }
  template <class T>
  Description& param(const char* name, T Params::*member, Required, const char* help, Rule rule = {}) {
    add(name, member, help, rule, true);
    return *this;
  }

  Params read(const fettle_value* values) const {
    Params params;
    for (std::size_t i = 0; i < readers_.size(); ++i) readers_[i](params, values[i]);
    return params;
  }

  /// The C table of this technique without its functions; points into this object, which must outlive it.
  fettle_technique table() const {
    fettle_technique t{};
    t.struct_size = sizeof t;
    t.epoch = epoch_;
    t.id = id_;
    t.help = help_;
    t.version = version_;
    t.reference = reference_;
    t.determinism = determinism_;
    t.inputs = inputs_.data();
    t.outputs = outputs_.data();
    t.params = params_.data();
    t.input_count = static_cast<std::uint32_t>(inputs_.size());
    t.output_count = static_cast<std::uint32_t>(outputs_.size());
    t.param_count = static_cast<std::uint32_t>(params_.size());
    t.services = services_.data();
    t.service_count = static_cast<std::uint32_t>(services_.size());
    return t;
  }

 private:
  template <class T>
  void add(const char* name, T Params::*member, const char* help, const Rule& rule, bool required) {
    using Type = detail::ParamType<T>;
    fettle_param p{};
    p.name = name;
    p.help = help;
    p.unit = rule.unit;
    p.type = Type::type;
    p.shape = Type::shape;
    if (required) p.flags |= FETTLE_PARAM_REQUIRED;
    if (Type::optional) p.flags |= FETTLE_PARAM_OPTIONAL;
    if (rule.min) p.flags |= FETTLE_PARAM_HAS_MIN;
    if (rule.max) p.flags |= FETTLE_PARAM_HAS_MAX;
    p.min = rule.min.value_or(0);
    p.max = rule.max.value_or(0);
    if constexpr (!Type::optional) {
      if (!required)
        p.default_text =
            texts_.emplace_back(std::make_shared<const std::string>(Type::text(Params{}.*member)))->c_str();
    }
    if (!rule.choices.empty()) {
      auto list = std::make_shared<std::vector<const char*>>();
      list->reserve(rule.choices.size() + 1);
      list->assign(rule.choices.begin(), rule.choices.end());
      list->push_back(nullptr);
      p.choices = choices_.emplace_back(std::move(list))->data();
    }
    params_.push_back(p);
    readers_.push_back([member](Params& params, const fettle_value& v) { params.*member = Type::read(v); });
  }

  const char* id_;
  const char* help_;
  const char* version_ = "0.1";
  const char* reference_ = nullptr;
  std::uint32_t epoch_ = 1;
  std::uint32_t determinism_ = FETTLE_PORTABLE;
  std::vector<fettle_port> inputs_, outputs_;
  std::vector<fettle_param> params_;
  std::vector<const char*> services_;
  std::vector<std::function<void(Params&, const fettle_value&)>> readers_;
  // Shared, so that the pointers in params_ stay valid when a Description is copied.
  std::vector<std::shared_ptr<const std::string>> texts_;
  std::vector<std::shared_ptr<const std::vector<const char*>>> choices_;
};

/// Parameters of a technique that has none.
struct NoParams {};

}  // namespace fettle
