// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Constants of the elementary functions, shared by every instruction set. No code in here: see kernel_table.h.
// The polynomials are minimax fits (Lawson iteration) rounded to f32.

namespace fettle::kit {

// exp(x) = 2^n (1 + r + r^2 p(r)), n = round(x / ln 2), r = x - n ln 2 in two steps.
inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2High = 0.693359375f;  ///< 10 bits: n * kLn2High is exact
inline constexpr float kLn2Low = -2.12194440e-4f;
/// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
inline constexpr float kRoundMagic = 12582912.0f;
inline constexpr std::uint32_t kRoundMagicBits = 0x4b400000u;
inline constexpr float kExpMin = -104.0f;  ///< below: 0
inline constexpr float kExpMax = 89.0f;    ///< above: +inf
inline constexpr float kExp[6] = {0.5f, 0.16666666f, 0.04166628f, 0.008333504f, 0.0013945752f, 0.00019789263f};

// tanh(x) = x + x z p(z), z = x^2, below kTanhSmall; 1 - 2 / (exp(2 |x|) + 1) with the sign of x from there on.
inline constexpr float kTanhSmall = 0.625f;
inline constexpr float kTanh[6] = {-0.3333333f, 0.13333195f, -0.053945377f, 0.021692606f, -0.008156279f, 0.0021227447f};

// gelu_tanh(x) = x sigmoid(x (kGelu1 + kGelu3 x^2)): twice sqrt(2 / pi), and that times 0.044715.
inline constexpr float kGelu1 = 1.59576912f;
inline constexpr float kGelu3 = 0.0713548163f;

}  // namespace fettle::kit
