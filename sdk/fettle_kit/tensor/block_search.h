// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace fettle::kit::block {

// The searches for a scale that ggml's quantizers share, in its order of operations: every product rounds, every sum
// runs in index order, so that the codes agree with it bit for bit (built without contraction). Written to be read; the
// lanes in compress/ are the fast form and are tested against these.

/// Scales and sums below this count as zero.
constexpr float negligible = 1e-15f;

/// To nearest, ties to even, for |v| < 2^22; wraps beyond, as the reference does.
std::int32_t nearest_int(float v);

/// Symmetric: x[i] ~ scale * (codes[i] - nmax), codes in 0 .. 2 nmax - 1. Weights w, or x*x if null.
float search_symmetric(int n, int nmax, const float* x, const float* w, std::uint8_t* codes);

/// Symmetric with weights x*x, improved code by code (Q3_K without importance weights).
float search_coordinate(int n, int nmax, const float* x, std::uint8_t* codes);

struct ScaleAndMin {
  float scale = 0, min = 0;  ///< x[i] ~ scale * code - min, min >= 0
};
struct AsymmetricSearch {
  int nmax;           ///< codes in 0 .. nmax
  float first, step;  ///< candidate k tries nmax + first + step k codes over the range
  int steps;          ///< k = 0 .. steps
  bool absolute;      ///< compares absolute errors instead of squared ones
};
ScaleAndMin search_asymmetric(int n, const AsymmetricSearch& how, const float* x, const float* w, std::uint8_t* codes);

/// x[i] ~ scale * codes[i], codes in 0 .. nmax: the scales and mins of a super-block. Negative x (IQ2_XXS has some) get
/// codes modulo 256, and the search believes them, as the reference does.
float search_positive(int n, int nmax, const float* x, const float* w, std::uint8_t* codes);

/// The code of the IQ4 value nearest to x.
std::uint8_t nearest_iq4(float x);
/// Scale of a sub-block of IQ4 values; the caller assigns the codes.
float search_iq4(int n, const float* x, const float* w);

}  // namespace fettle::kit::block
