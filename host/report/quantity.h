// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace fettle::host {

// Numbers for people, with their units.

std::string show_bytes(std::uint64_t bytes);                  ///< "812 B", "1.50 KiB", "3.20 GiB"
std::string show_seconds(double seconds);                     ///< "45 ms", "3.2 s", "4 min 05 s", "2 h 03 min"
std::string show_count(double count, const char* unit = "");  ///< "3.2 TFLOP" with unit "FLOP"
/// Six significant digits: "31.2413", "0.000213", "1.2e+09".
std::string show_number(double value);
/// "31.24 ± 0.12" ("+-" without UTF-8): the error with two digits, the value as far as that. Without an error as above.
std::string show_measured(double value, std::optional<double> standard_error, bool utf8);

}  // namespace fettle::host
