// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

namespace fettle::kit {

/// ln(x) for finite normal x > 0 in plain f64 arithmetic: the same on every machine, which no system's log() promises.
/// Exactly 0 for 1; relative error below 1e-13.
inline double natural_log(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  auto exponent = static_cast<int>(bits >> 52) - 1022;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffULL) | 0x3fe0000000000000ULL);  // [0.5, 1)
  if (m < 0.70710678118654752) m *= 2, --exponent;
  const double t = (m - 1) / (m + 1), z = t * t;  // ln m = 2 artanh t, |t| < 0.172
  double series = 0;
  for (int k = 17; k >= 1; k -= 2) series = series * z + 1.0 / k;
  return exponent * 0.69314718055994530942 + 2 * t * series;
}

}  // namespace fettle::kit
