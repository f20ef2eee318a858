// SPDX-License-Identifier: Apache-2.0
#include "host/report/quantity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace fettle::host {
namespace {

/// Three significant digits, never an exponent for 1 <= value < 1024.
std::string three_digits(double value) {
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}", value, decimals);
}

}  // namespace

std::string show_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 6> units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1023.5 && unit + 1 < units.size()) value /= 1024, ++unit;
  return three_digits(value) + " " + units[unit];
}

std::string show_seconds(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  if (seconds > 1e9) return "?";
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  const std::int64_t minutes = (whole + 30) / 60;
  return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
}

std::string show_count(double count, const char* unit) {
  static constexpr std::array<const char*, 7> prefixes{"", "k", "M", "G", "T", "P", "E"};
  std::size_t prefix = 0;
  while (count >= 999.5 && prefix + 1 < prefixes.size()) count /= 1000, ++prefix;
  const std::string digits =
      prefix == 0 && count == std::floor(count) ? fmt::format("{:.0f}", count) : three_digits(count);
  const std::string end = std::string(prefixes[prefix]) + unit;
  return end.empty() ? digits : digits + " " + end;
}

std::string show_number(double value) { return fmt::format("{:.6g}", value); }

std::string show_measured(double value, std::optional<double> standard_error, bool utf8) {
  if (!standard_error || !std::isfinite(*standard_error) || *standard_error <= 0 || !std::isfinite(value))
    return show_number(value);
  const int magnitude = static_cast<int>(std::floor(std::log10(*standard_error)));
  const int decimals = std::clamp(1 - magnitude, 0, 12);
  return fmt::format("{:.{}f} {} {:.{}f}", value, decimals, utf8 ? "\u00b1" : "+-", *standard_error, decimals);
}

}  // namespace fettle::host
