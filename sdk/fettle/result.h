// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/abi.h"

#include <cassert>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace fettle {

/// Whose fault and what kind; the message does the rest. Same numbers as fettle_status in abi.h.
enum class Code : std::int32_t {
  ok = FETTLE_OK,
  invalid_argument = FETTLE_INVALID_ARGUMENT,
  not_found = FETTLE_NOT_FOUND,
  corrupt_data = FETTLE_CORRUPT_DATA,
  unsupported = FETTLE_UNSUPPORTED,
  io = FETTLE_IO,
  out_of_memory = FETTLE_OUT_OF_MEMORY,
  cancelled = FETTLE_CANCELLED,
  internal = FETTLE_INTERNAL,
};

/// Success, or a code with a message: lower case, no full stop, quotes round user text, numbers with units, and what
/// to do about it. `where` names the parameter, port or file in question, or is empty.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message, std::string where = {})
      : code_(code), message_(std::move(message)), where_(std::move(where)) {
    assert(code != Code::ok);
  }

  bool ok() const { return code_ == Code::ok; }
  explicit operator bool() const { return ok(); }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& where() const { return where_; }

  /// Puts "context: " in front of the message, on the way up.
  Status with_context(std::string_view context) && {
    if (!ok()) message_.insert(0, std::string(context) + ": ");
    return std::move(*this);
  }

 private:
  Code code_ = Code::ok;
  std::string message_;
  std::string where_;
};

/// A value, or the Status that explains why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(google-explicit-constructor): return value;
  Result(Status status)
      : state_(std::in_place_index<1>, std::move(status)) {  // NOLINT(google-explicit-constructor): return error;
    assert(!std::get<1>(state_).ok());
  }

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }

  const Status& error() const& { return std::get<1>(state_); }
  Status error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace fettle

/// Returns from the enclosing function if the Status or Result is an error.
///   FETTLE_TRY(writer.finish());
#define FETTLE_TRY(expression)                                      \
  do {                                                              \
    if (auto fettle_try_ = (expression); !fettle_try_.ok())         \
      return ::fettle::detail::take_status(std::move(fettle_try_)); \
  } while (false)

/// Declares `declaration` from the value of a Result, or returns its error.
///   FETTLE_ASSIGN(const auto config, read_config(path));
#define FETTLE_ASSIGN(declaration, expression) \
  FETTLE_ASSIGN_(FETTLE_CONCAT_(fettle_result_, __LINE__), declaration, expression)
#define FETTLE_ASSIGN_(result, declaration, expression)                      \
  auto result = (expression);                                                \
  if (!result.ok()) return ::fettle::detail::take_status(std::move(result)); \
  declaration = *std::move(result)
#define FETTLE_CONCAT_(a, b) FETTLE_CONCAT2_(a, b)
#define FETTLE_CONCAT2_(a, b) a##b

namespace fettle::detail {
inline Status take_status(Status&& status) { return std::move(status); }
template <class T>
Status take_status(Result<T>&& result) {
  return std::move(result).error();
}
}  // namespace fettle::detail
