// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/fields.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <utility>

namespace fettle::kit {
namespace {
const Json null_value;
const Json empty_object = Json::object();
const Json empty_array = Json::array();
}  // namespace

std::string_view json_type(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "a list";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "true or false";
    default:
      return "a number";
  }
}

Fields::Fields(const Json& object, std::string where, Status& status)
    : object_(&object), where_(std::move(where)), status_(&status) {
  if (object.is_object()) return;
  fail(Code::corrupt_data, fmt::format("is {}, expected an object", json_type(object)));
  object_ = &empty_object;
}

const Json& Fields::at(const char* key) const {
  const auto it = object_->find(key);
  return it == object_->end() ? null_value : *it;
}

bool Fields::has(const char* key) const { return !at(key).is_null(); }

void Fields::fail(Code code, const std::string& message) {
  if (status_->ok()) *status_ = Status(code, fmt::format("{}: {}", where_, message));
}

void Fields::expect(const char* key, std::string_view type) {
  if (object_->contains(key))
    fail(Code::corrupt_data, fmt::format("'{}' is {}, expected {}", key, json_type(at(key)), type));
  else
    fail(Code::corrupt_data, fmt::format("'{}' is missing, expected {}", key, type));
}

std::string Fields::string(const char* key) {
  const Json& value = at(key);
  if (value.is_string()) return value.get<std::string>();
  expect(key, "a string");
  return {};
}

std::string Fields::string(const char* key, const std::string& otherwise) { return has(key) ? string(key) : otherwise; }

std::optional<std::string> Fields::optional_string(const char* key) {
  if (!has(key)) return std::nullopt;
  return string(key);
}

bool Fields::flag(const char* key, bool otherwise) {
  const Json& value = at(key);
  if (value.is_null()) return otherwise;
  if (value.is_boolean()) return value.get<bool>();
  expect(key, "true or false");
  return otherwise;
}

std::int64_t Fields::integer(const char* key, std::int64_t min, std::int64_t max) {
  const Json& value = at(key);
  const auto range = fmt::format("a whole number from {} to {}", min, max);
  if (!value.is_number_integer()) {
    expect(key, range);
    return min;
  }
  // Unsigned values beyond i64 would wrap.
  if ((value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) ||
      value.get<std::int64_t>() < min || value.get<std::int64_t>() > max) {
    fail(Code::corrupt_data, fmt::format("'{}' is {}, expected {}", key, value.dump(), range));
    return min;
  }
  return value.get<std::int64_t>();
}

Fields Fields::object(const char* key) {
  const Json& value = at(key);
  if (!value.is_object()) expect(key, "an object");
  return Fields(value.is_object() ? value : empty_object, fmt::format("{}: {}", where_, key), *status_);
}

const Json& Fields::array(const char* key) {
  const Json& value = at(key);
  if (value.is_array()) return value;
  expect(key, "a list");
  return empty_array;
}

}  // namespace fettle::kit
