// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/float_grids.h"

#include "fettle_kit/compress/float_lanes.h"
#include "fettle_kit/kernels/kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace fettle::kit {
namespace {

const FloatLanes& lanes() {
  switch (kernels().vectors) {
    case Vectors::avx512:
      return float_lanes_avx512;
    case Vectors::avx2:
      return float_lanes_avx2;
    default:
      return float_lanes_plain;
  }
}

constexpr std::uint8_t one_e4m3 = 0x38;
constexpr int chunk = 64;  ///< blocks handled at a time, so that their numbers stay in registers and L1

/// The numbers of all E4M3 codes.
const std::array<float, 256> e4m3_values = [] {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((code & 0x7f) == 0x7f) value = std::numeric_limits<float>::quiet_NaN();
    values[static_cast<std::size_t>(code)] = code < 128 ? value : -value;
  }
  return values;
}();

constexpr std::array<float, 16> e2m1_values{0, 0.5F, 1, 1.5F, 2, 3, 4, 6, 0, -0.5F, -1, -1.5F, -2, -3, -4, -6};

/// The two numbers of every byte of E2M1 codes.
constexpr auto e2m1_pairs = [] {
  std::array<std::array<float, 2>, 256> pairs{};
  for (std::size_t byte = 0; byte < 256; ++byte) pairs[byte] = {e2m1_values[byte & 15], e2m1_values[byte >> 4]};
  return pairs;
}();

/// The scale codes of up to `chunk` blocks whose largest magnitudes shall become `top` of the E2M1 grid.
void scale_codes(std::span<const float> magnitudes, float divisor, float top, std::uint8_t* codes) {
  std::array<float, chunk> scaled;  // NOLINT: filled below
  for (std::size_t b = 0; b < magnitudes.size(); ++b) scaled[b] = divisor * magnitudes[b];
  encode_e4m3({scaled.data(), magnitudes.size()}, top, codes);
  for (std::size_t b = 0; b < magnitudes.size(); ++b)
    codes[b] = magnitudes[b] == 0 ? one_e4m3 : std::max<std::uint8_t>(1, codes[b]);
}

/// The numbers that codes of up to `chunk` blocks stand for.
using Factors = std::array<float, chunk>;
Factors factors_of(const std::uint8_t* scales, std::size_t blocks, float divisor) {
  std::array<std::uint8_t, chunk> codes{};
  std::copy_n(scales, blocks, codes.begin());
  Factors factors;  // NOLINT: filled below
  lanes().e4m3_quotients(codes.data(), (blocks + 15) / 16 * 16, divisor, factors.data());
  return factors;
}

/// 2^(code - 127), code 0 to 254.
float power_of_two(int code) {
  return std::bit_cast<float>(code == 0 ? 1U << 22 : static_cast<std::uint32_t>(code) << 23);
}

std::uint8_t power_code(float magnitude, std::uint32_t carry) {
  if (magnitude == 0) return 127;
  const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(magnitude) + carry) >> 23;
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(std::int64_t{exponent} - 2, 1, 254));
}
constexpr std::uint32_t no_carry = 0, quarter_carry = 1U << 21;  // 0.25 of the mantissa: 1.75 and more carry

/// Calls fn(first block, blocks) for pieces of a row.
template <class Fn>
void by_chunks(std::size_t n, std::int64_t block, const Fn& fn) {
  const std::size_t blocks = n / static_cast<std::size_t>(block);
  for (std::size_t first = 0; first < blocks; first += chunk) fn(first, std::min<std::size_t>(chunk, blocks - first));
}

void sweep_scales(const float* x, float divisor, const float* hessian, std::uint8_t& scale) {
  std::array<float, 128> candidates{}, errors{};
  for (std::size_t code = 0; code < 128; ++code)
    candidates[code] = e4m3_values[std::clamp<std::size_t>(code, 1, 126)] / divisor;
  lanes().e2m1_candidates(x, candidates.data(), candidates.size(), hessian, errors.data());
  for (std::uint8_t code = 1; code < 127; ++code)
    if (errors[code] < errors[scale]) scale = code;
}

}  // namespace

float largest_magnitude(std::span<const float> x) {
  return std::bit_cast<float>(lanes().magnitude(x.data(), x.size()));
}

std::uint8_t to_e4m3(float value) {
  std::uint8_t code = 0;
  encode_e4m3({&value, 1}, 1.0F, &code);
  return code;
}

float from_e4m3(std::uint8_t code) { return e4m3_values[code]; }

float encode_e4m3(std::span<const float> x, float scale, std::uint8_t* codes) {
  return lanes().e4m3(x.data(), x.size(), scale, codes);
}

float sum_of_squares(std::span<const float> x) { return lanes().squares(x.data(), x.size()); }

void decode_e4m3(const std::uint8_t* codes, float scale, std::span<float> x) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = e4m3_values[codes[i]] * scale;
}

float nearest_e2m1(float value) {
  // Steps of 0.5 up to 2, of 1 up to 4, of 2 up to 6; adding 2^23 * 1.5 rounds to whole numbers, ties to even.
  const float magnitude = std::min(std::fabs(value), e2m1_max);
  const float step = magnitude < 2 ? 0.5F : magnitude < 4 ? 1.0F : 2.0F;
  const float nearest = (magnitude / step + 12582912.0F - 12582912.0F) * step;
  return value < 0 ? 0 - nearest : nearest;
}

void decode_e2m1(const std::uint8_t* packed, std::int64_t block, const float* factors, std::span<float> x) {
  const auto bytes = static_cast<std::size_t>(block) / 2;
  for (std::size_t first = 0; first < x.size() / 2; first += bytes) {
    const float factor = *factors++;
    for (std::size_t i = first; i < first + bytes; ++i) {
      const std::array<float, 2>& pair = e2m1_pairs[packed[i]];
      x[2 * i] = pair[0] * factor;
      x[2 * i + 1] = pair[1] * factor;
    }
  }
}

float from_e8m0(std::uint8_t code) {
  return code == 255 ? std::numeric_limits<float>::quiet_NaN() : power_of_two(code);
}

std::optional<BlockScale> find_block_scale(std::string_view name) {
  if (name == "plain") return BlockScale::plain;
  if (name == "four_over_six") return BlockScale::four_over_six;
  if (name == "sweep") return BlockScale::sweep;
  return std::nullopt;
}

float nvfp4_divisor(float magnitude, BlockScale choice) {
  const float top = choice == BlockScale::plain ? e4m3_max : 256.0F;
  const float divisor = top * e2m1_max / magnitude;
  return std::isfinite(divisor) ? divisor : 1.0F;
}

void nvfp4_scales(std::span<const float> x, float divisor, BlockScale choice, const float* hessian,
                  std::uint8_t* scales) {
  by_chunks(x.size(), nvfp4_block, [&](std::size_t first, std::size_t blocks) {
    std::array<float, chunk> magnitudes, six_errors, four_errors;  // NOLINT: filled below
    std::array<std::uint8_t, chunk> alternatives;                  // NOLINT
    const float* const from = x.data() + first * nvfp4_block;
    lanes().block_magnitudes(from, blocks, nvfp4_block, magnitudes.data());
    const std::span<const float> known(magnitudes.data(), blocks);
    std::uint8_t* const out = scales + first;
    scale_codes(known, divisor, e2m1_max, out);
    if (choice == BlockScale::plain) return;
    const auto block_hessian = [&](std::size_t b) { return hessian ? hessian + (first + b) * 256 : nullptr; };
    if (choice == BlockScale::sweep) {
      for (std::size_t b = 0; b < blocks; ++b)
        if (magnitudes[b] != 0) sweep_scales(from + b * nvfp4_block, divisor, block_hessian(b), out[b]);
      return;
    }
    scale_codes(known, divisor, 4.0F, alternatives.data());
    const Factors six = factors_of(out, blocks, divisor), four = factors_of(alternatives.data(), blocks, divisor);
    if (hessian == nullptr) {
      lanes().e2m1_errors(from, blocks, nvfp4_block, six.data(), six_errors.data());
      lanes().e2m1_errors(from, blocks, nvfp4_block, four.data(), four_errors.data());
    } else {
      for (std::size_t b = 0; b < blocks; ++b) {
        std::array<float, 16> both{}, errors{};
        both.fill(six[b]);
        both[1] = four[b];
        lanes().e2m1_candidates(from + b * nvfp4_block, both.data(), both.size(), block_hessian(b), errors.data());
        six_errors[b] = errors[0];
        four_errors[b] = errors[1];
      }
    }
    for (std::size_t b = 0; b < blocks; ++b)
      if (four_errors[b] < six_errors[b]) out[b] = alternatives[b];
  });
}

float encode_nvfp4(std::span<const float> x, float divisor, const std::uint8_t* scales, std::uint8_t* packed) {
  float error = 0;
  by_chunks(x.size(), nvfp4_block, [&](std::size_t first, std::size_t blocks) {
    const Factors factors = factors_of(scales + first, blocks, divisor);
    error += lanes().e2m1(x.data() + first * nvfp4_block, blocks, nvfp4_block, factors.data(),
                          packed + first * nvfp4_block / 2);
  });
  return error;
}

void decode_nvfp4(const std::uint8_t* packed, const std::uint8_t* scales, float divisor, std::span<float> x) {
  std::vector<float> factors(x.size() / nvfp4_block);
  for (std::size_t b = 0; b < factors.size(); ++b) factors[b] = from_e4m3(scales[b]) / divisor;
  decode_e2m1(packed, nvfp4_block, factors.data(), x);
}

std::optional<PowerScale> find_power_scale(std::string_view name) {
  if (name == "floor") return PowerScale::floor;
  if (name == "nearest") return PowerScale::nearest;
  if (name == "search") return PowerScale::search;
  return std::nullopt;
}

void mxfp4_scales(std::span<const float> x, PowerScale choice, std::uint8_t* scales) {
  by_chunks(x.size(), mxfp4_block, [&](std::size_t first, std::size_t blocks) {
    std::array<float, chunk> magnitudes, low, high, low_errors, high_errors;  // NOLINT: filled below
    const float* const from = x.data() + first * mxfp4_block;
    lanes().block_magnitudes(from, blocks, mxfp4_block, magnitudes.data());
    std::uint8_t* const out = scales + first;
    for (std::size_t b = 0; b < blocks; ++b)
      out[b] = power_code(magnitudes[b], choice == PowerScale::nearest ? quarter_carry : no_carry);
    if (choice != PowerScale::search) return;
    for (std::size_t b = 0; b < blocks; ++b) {
      low[b] = power_of_two(out[b]);
      high[b] = power_of_two(std::min(254, out[b] + 1));
    }
    lanes().e2m1_errors(from, blocks, mxfp4_block, low.data(), low_errors.data());
    lanes().e2m1_errors(from, blocks, mxfp4_block, high.data(), high_errors.data());
    for (std::size_t b = 0; b < blocks; ++b)
      if (high_errors[b] < low_errors[b]) ++out[b];
  });
}

float encode_mxfp4(std::span<const float> x, const std::uint8_t* scales, std::uint8_t* packed) {
  float error = 0;
  by_chunks(x.size(), mxfp4_block, [&](std::size_t first, std::size_t blocks) {
    std::array<float, chunk> factors;  // NOLINT: filled below
    for (std::size_t b = 0; b < blocks; ++b) factors[b] = power_of_two(scales[first + b]);
    error += lanes().e2m1(x.data() + first * mxfp4_block, blocks, mxfp4_block, factors.data(),
                          packed + first * mxfp4_block / 2);
  });
  return error;
}

void decode_mxfp4(const std::uint8_t* packed, const std::uint8_t* scales, std::span<float> x) {
  std::vector<float> factors(x.size() / mxfp4_block);
  for (std::size_t b = 0; b < factors.size(); ++b) factors[b] = from_e8m0(scales[b]);
  decode_e2m1(packed, mxfp4_block, factors.data(), x);
}

}  // namespace fettle::kit
