// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/config_keys.h"

#include <fmt/format.h>

#include <cmath>

namespace fettle::kit {

std::string shown(const nlohmann::ordered_json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

const ConfigKeys::Json* ConfigKeys::find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::int64_t ConfigKeys::integer(const char* key, std::int64_t min, std::int64_t max,
                                 std::optional<std::int64_t> otherwise) {
  const Json* value = find(key);
  if (!value) {
    if (!otherwise) fail(fmt::format("'{}' is missing", key));
    return otherwise.value_or(min);
  }
  const bool fits =
      value->is_number_integer() && !(value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX);
  if (fits) {
    const auto number = value->get<std::int64_t>();
    if (number >= min && number <= max) return number;
  }
  fail(fmt::format("'{}' is {}, expected an integer from {} to {}", key, shown(*value), min, max));
  return min;
}

double ConfigKeys::real(const char* key, double min, double max, std::optional<double> otherwise) {
  const Json* value = find(key);
  if (!value) {
    if (!otherwise) fail(fmt::format("'{}' is missing", key));
    return otherwise.value_or(min);
  }
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (number >= min && number <= max) return number;
  fail(fmt::format("'{}' is {}, expected a number from {:g} to {:g}", key, shown(*value), min, max));
  return min;
}

bool ConfigKeys::flag(const char* key, bool otherwise) {
  const Json* value = find(key);
  if (!value) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  fail(fmt::format("'{}' is {}, expected true or false", key, shown(*value)));
  return otherwise;
}

std::string ConfigKeys::text(const char* key, std::string_view otherwise) {
  const Json* value = find(key);
  if (!value) return std::string(otherwise);
  if (value->is_string()) return value->get<std::string>();
  fail(fmt::format("'{}' is {}, expected a string", key, shown(*value)));
  return std::string(otherwise);
}

void ConfigKeys::fail(const std::string& problem, Code code) {
  if (status.ok()) status = {code, fmt::format("{}: {}", name_, problem)};
}

}  // namespace fettle::kit
