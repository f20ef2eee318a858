// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <span>
#include <utility>

namespace fettle::host {

namespace {

using Units = std::span<const std::pair<std::string_view, double>>;

constexpr std::array<std::pair<std::string_view, double>, 6> count_units{
    {{"", 1}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}}};
constexpr std::array<std::pair<std::string_view, double>, 9> size_units{{{"B", 1},
                                                                         {"kB", 1e3},
                                                                         {"MB", 1e6},
                                                                         {"GB", 1e9},
                                                                         {"TB", 1e12},
                                                                         {"KiB", 1024.0},
                                                                         {"MiB", 1048576.0},
                                                                         {"GiB", 1073741824.0},
                                                                         {"TiB", 1099511627776.0}}};
constexpr std::array<std::pair<std::string_view, double>, 5> duration_units{
    {{"ms", 1e-3}, {"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}}};

/// YAML 1.2 core: [-+]?[0-9]+ | 0o[0-7]+ | 0x[0-9a-fA-F]+
std::optional<std::int64_t> read_integer(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0o")) {
    base = text[1] == 'x' ? 16 : 8;
    text.remove_prefix(2);
    if (text.starts_with('-')) return std::nullopt;
  } else if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) return std::nullopt;
  }
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?, finite. `end` tells how much of the text that was.
std::optional<double> read_decimal(std::string_view text, std::size_t& end) {
  std::size_t i = 0;
  const auto digits = [&] {
    const std::size_t from = i;
    while (i < text.size() && text[i] >= '0' && text[i] <= '9') ++i;
    return i - from;
  };
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
  const std::size_t before = digits();
  std::size_t after = 0;
  if (i < text.size() && text[i] == '.') {
    ++i;
    after = digits();
  }
  if (before + after == 0) return std::nullopt;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    const std::size_t mantissa_end = i++;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    if (digits() == 0) i = mantissa_end;
  }
  std::string_view number = text.substr(0, i);
  if (number.starts_with('+')) number.remove_prefix(1);
  double value = 0;
  const auto [stop, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (error == std::errc::result_out_of_range) return std::nullopt;
  if (error != std::errc{} || !std::isfinite(value)) return std::nullopt;
  end = i;
  return value;
}

std::optional<double> read_with_unit(std::string_view text, Units units) {
  std::size_t end = 0;
  const std::optional<double> number = read_decimal(text, end);
  if (!number) return std::nullopt;
  while (end < text.size() && text[end] == ' ') ++end;
  for (const auto& [unit, factor] : units)
    if (text.substr(end) == unit) return *number * factor;
  return std::nullopt;
}

/// A whole number >= 0 that a double holds exactly.
std::optional<std::int64_t> whole(std::optional<double> value) {
  if (!value || *value < 0 || *value > 9007199254740992.0 || std::floor(*value) != *value) return std::nullopt;
  return static_cast<std::int64_t>(*value);
}

bool is_bool_text(std::string_view text) {
  return text == "true" || text == "True" || text == "TRUE" || text == "false" || text == "False" || text == "FALSE";
}

bool is_float_text(std::string_view text) {
  std::size_t end = 0;
  if (read_decimal(text, end) && end == text.size()) return true;
  if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
  return text == ".inf" || text == ".Inf" || text == ".INF" || text == ".nan" || text == ".NaN" || text == ".NAN";
}

}  // namespace

bool is_null_text(std::string_view text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

bool is_typed_plain(const Node& node) {
  return node.kind == Node::Kind::scalar && !node.quoted &&
         (is_null_text(node.text) || is_bool_text(node.text) || read_integer(node.text) || is_float_text(node.text));
}

std::optional<Scalar> read_scalar(const Node& node, std::uint32_t type) {
  if (node.kind != Node::Kind::scalar) return std::nullopt;
  const std::string& text = node.text;
  Scalar out;
  if (type == FETTLE_TYPE_STRING || type == FETTLE_TYPE_PATH) {
    if (text.find('\0') != std::string::npos || (type == FETTLE_TYPE_PATH && text.empty())) return std::nullopt;
    out.text = text;
    return out;
  }
  if (node.quoted) return std::nullopt;
  std::size_t end = 0;
  switch (type) {
    case FETTLE_TYPE_BOOL:
      if (!is_bool_text(text)) return std::nullopt;
      out.integer = text[0] == 't' || text[0] == 'T';
      break;
    case FETTLE_TYPE_INT: {
      const auto value = read_integer(text);
      if (!value) return std::nullopt;
      out.integer = *value;
      break;
    }
    case FETTLE_TYPE_FLOAT: {
      const auto value = read_decimal(text, end);
      if (!value || end != text.size()) return std::nullopt;
      out.real = *value == 0 ? 0 : *value;  // no negative zero: it would be another key
      return out;
    }
    case FETTLE_TYPE_COUNT:
    case FETTLE_TYPE_SIZE: {
      const bool zero = type == FETTLE_TYPE_SIZE && text == "0";
      const auto value =
          whole(zero ? 0.0 : read_with_unit(text, type == FETTLE_TYPE_SIZE ? Units(size_units) : Units(count_units)));
      if (!value) return std::nullopt;
      out.integer = *value;
      break;
    }
    case FETTLE_TYPE_DURATION: {
      const auto value = text == "0" ? std::optional(0.0) : read_with_unit(text, duration_units);
      if (!value || *value < 0) return std::nullopt;
      out.real = *value == 0 ? 0 : *value;
      return out;
    }
    default:
      return std::nullopt;
  }
  out.real = static_cast<double>(out.integer);
  return out;
}

std::optional<double> read_quantity(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, double>, 1> percent{{{"%", 0.01}}};
  for (const Units units : {Units(count_units), Units(size_units), Units(duration_units), Units(percent)})
    if (const auto value = read_with_unit(text, units)) return value;
  return std::nullopt;
}

std::string expectation(std::uint32_t type, const Node& found) {
  const bool bare = found.kind == Node::Kind::scalar && !found.quoted && is_float_text(found.text);
  switch (type) {
    case FETTLE_TYPE_BOOL:
      return "expected true or false";
    case FETTLE_TYPE_INT:
      return "expected a whole number";
    case FETTLE_TYPE_FLOAT:
      return "expected a number";
    case FETTLE_TYPE_STRING:
      return "expected text";
    case FETTLE_TYPE_COUNT:
      return "expected a count such as 512, 100k or 2M (powers of 1000)";
    case FETTLE_TYPE_SIZE:
      return bare ? fmt::format("expected a size with its unit: write {0}MiB, {0}GB or {0}B", found.text)
                  : "expected a size with its unit, such as 500MB or 24GiB";
    case FETTLE_TYPE_DURATION:
      return bare ? fmt::format("expected a time with its unit: write {0}s, {0}min or {0}h", found.text)
                  : "expected a time with its unit, such as 90s, 15min or 2h";
    case FETTLE_TYPE_PATH:
      return "expected a path";
    default:
      return "expected nothing";
  }
}

std::string describe(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      return "nothing";
    case Node::Kind::list:
      return "a list";
    case Node::Kind::map:
      return "a map";
    case Node::Kind::scalar:
      break;
  }
  constexpr std::size_t most = 80;
  if (node.text.size() <= most) return fmt::format("'{}'", node.text);
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(node.text[end]) & 0xC0) == 0x80) --end;
  return fmt::format("'{}...'", std::string_view(node.text).substr(0, end));
}

std::string_view type_name(std::uint32_t type) {
  constexpr std::array<std::string_view, 9> names{"none",  "bool", "int",      "float", "string",
                                                  "count", "size", "duration", "path"};
  return type < names.size() ? names[type] : "unknown";
}

}  // namespace fettle::host
