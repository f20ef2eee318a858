// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/matrix.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fettle::kit {

/// Numbers by counter, so that every test and every failure repeats (SplitMix64).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f; }
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(n)); }
  std::vector<float> row(std::size_t n, float low = -2, float high = 2) {
    std::vector<float> out(n);
    for (float& x : out) x = uniform(low, high);
    return out;
  }

 private:
  std::uint64_t state_;
};

/// A matrix that owns its elements, with room between the rows.
struct Owned {
  std::vector<float> data;
  std::int64_t rows, cols, stride;
  Owned(std::int64_t r, std::int64_t c, std::int64_t s, Random& random)
      : data(random.row(static_cast<std::size_t>(r * s))), rows(r), cols(c), stride(s) {}
  operator ConstMatrix() const { return {data.data(), rows, cols, stride}; }
  operator MutMatrix() { return {data.data(), rows, cols, stride}; }
};

/// Same bits, or both NaN: which payload a NaN keeps depends on the order of operands.
inline bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

inline void expect_same(std::span<const float> got, std::span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_TRUE(same(got[i], want[i])) << what << ": element " << i << " is " << got[i] << ", expected " << want[i];
}

}  // namespace fettle::kit
