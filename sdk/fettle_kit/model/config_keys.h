// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fettle::kit {

/// Reads keys of one JSON object of config.json; null counts as absent. The first problem is kept in `status`, reads
/// after it give harmless values, so that a reader checks once at its end. Borrows both arguments.
class ConfigKeys {
 public:
  using Json = nlohmann::ordered_json;

  ConfigKeys(const Json& object, std::string_view name) : object_(object), name_(name) {}

  const Json* find(const char* key) const;
  bool is_null(const char* key) const { return object_.contains(key) && object_[key].is_null(); }
  /// An integer in [min, max]; absent: `otherwise`, or a problem if that is nothing.
  std::int64_t integer(const char* key, std::int64_t min, std::int64_t max,
                       std::optional<std::int64_t> otherwise = std::nullopt);
  double real(const char* key, double min, double max, std::optional<double> otherwise = std::nullopt);
  bool flag(const char* key, bool otherwise);
  std::string text(const char* key, std::string_view otherwise);

  void fail(const std::string& problem, Code code = Code::corrupt_data);
  Status status;

 private:
  const Json& object_;
  std::string_view name_;
};

/// A value as messages show it: compact JSON, cut after 60 characters.
std::string shown(const nlohmann::ordered_json& value);

}  // namespace fettle::kit
