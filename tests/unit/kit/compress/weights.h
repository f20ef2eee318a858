// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

// The test weights of tests/data/gguf/weights.py, bit for bit.

namespace fettle::kit::test {

inline constexpr std::int64_t kRows = 8, kCols = 512;
inline constexpr std::string_view kDistributions[] = {"normal", "heavy", "positive", "sparse", "scaled", "negative"};

/// The i-th (from 1) of a sequence of uniform doubles in [0, 1).
inline double uniform(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = i * 0x9E3779B97F4A7C15u + seed;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/// Nearly normal: twelve uniforms minus six, added in order.
inline double normal(std::uint64_t seed, std::uint64_t i) {
  double total = uniform(seed, 12 * i + 1);
  for (std::uint64_t k = 1; k < 12; ++k) total += uniform(seed, 12 * i + 1 + k);
  return total - 6.0;
}

inline std::vector<float> weights(std::string_view distribution, std::int64_t rows = kRows, std::int64_t cols = kCols) {
  std::uint64_t seed = 1;
  for (const std::string_view d : kDistributions) {
    if (d == distribution) break;
    ++seed;
  }
  std::vector<float> out(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < out.size(); ++i) {
    double v = normal(seed, i);
    if (distribution == "heavy") {
      v = v * v * v;
    } else if (distribution == "positive") {
      v = std::fabs(v) + 0.25;
    } else if (distribution == "sparse") {
      if (i / 32 % 3 == 0) v = 0;
      if (i / 256 % 5 == 4) v = 0;
      if (i / 32 % 11 == 5) v = 0.5;
      if (i % 97 == 0) v *= 40.0;
    } else if (distribution == "scaled") {
      v *= std::exp2(static_cast<double>(i / 64 * 7 % 19) - 12.0);
    } else if (distribution == "negative") {
      v = -std::fabs(v);
    }
    out[i] = static_cast<float>(v * 0.02);
  }
  return out;
}

inline std::vector<float> importance(std::int64_t cols = kCols) {
  std::vector<float> out(static_cast<std::size_t>(cols));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double u = uniform(99, i + 1);
    out[i] = i / 32 % 7 == 3 ? 0.0f : static_cast<float>(u * u * 30.0);
  }
  return out;
}

}  // namespace fettle::kit::test
