// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/io/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fettle::kit {

/// Reads the members of an untrusted JSON object. The first problem is kept in `status` (which all readers of a file
/// share) and everything after it yields empty values, so that a caller reads a whole section and checks once.
class Fields {
 public:
  /// `where` is what messages call the object, for example "tokenizer.json: model".
  Fields(const Json& object, std::string where, Status& status);

  bool has(const char* key) const;  ///< present and not null
  std::string string(const char* key);
  std::string string(const char* key, const std::string& otherwise);
  std::optional<std::string> optional_string(const char* key);
  bool flag(const char* key, bool otherwise);
  std::int64_t integer(const char* key, std::int64_t min, std::int64_t max);
  Fields object(const char* key);
  /// An empty array if there is a problem.
  const Json& array(const char* key);
  const Json& at(const char* key) const;  ///< null if absent

  void fail(Code code, const std::string& message);
  const std::string& where() const { return where_; }
  Status& status() const { return *status_; }

 private:
  void expect(const char* key, std::string_view type);
  const Json* object_;
  std::string where_;
  Status* status_;
};

/// "a string", "a number", ...: what a JSON value is, for messages.
std::string_view json_type(const Json& value);

}  // namespace fettle::kit
