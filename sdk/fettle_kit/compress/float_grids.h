// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace fettle::kit {

// Small floating-point grids: FP8 (E4M3), and FP4 (E2M1) in blocks that share a scale, as NVFP4 and MXFP4 files hold
// them (docs/explanation/numerics.md). Inputs are finite f32; a NaN or infinity shows in largest_magnitude() and must
// be refused before encoding. The same bytes on every instruction set. [any thread]

inline constexpr float e4m3_max = 448.0F;
inline constexpr float e2m1_max = 6.0F;
inline constexpr std::int64_t nvfp4_block = 16;
inline constexpr std::int64_t mxfp4_block = 32;

/// max |x|, NaN if x holds a NaN; 0 for none.
float largest_magnitude(std::span<const float> x);

/// To the nearest E4M3 value, ties to even, saturating at 448. NaN gives 448: check first.
std::uint8_t to_e4m3(float value);
/// Exact; NaN for 0x7f and 0xff.
float from_e4m3(std::uint8_t code);

/// codes[i] = to_e4m3(x[i] / scale), scale > 0. All encoders return sum (x - what it is encoded as)^2, added in f32 and
/// a fixed order.
float encode_e4m3(std::span<const float> x, float scale, std::uint8_t* codes);
/// sum x^2, in f32 and a fixed order.
float sum_of_squares(std::span<const float> x);
/// x[i] = from_e4m3(codes[i]) * scale
void decode_e4m3(const std::uint8_t* codes, float scale, std::span<float> x);

/// The E2M1 number nearest to `value`, ties to the even code, saturating at 6.
float nearest_e2m1(float value);
/// Two codes a byte, the even column in the low bits; x = code * factors[its block of `block` columns].
void decode_e2m1(const std::uint8_t* packed, std::int64_t block, const float* factors, std::span<float> x);

/// 2^(code - 127); 255 stands for NaN.
float from_e8m0(std::uint8_t code);

/// Which of the 126 positive E4M3 numbers becomes the scale of a block of NVFP4.
enum class BlockScale {
  plain,          ///< the one nearest to max |block| / 6
  four_over_six,  ///< that, or the one nearest to max |block| / 4, whichever gives the smaller squared error
  sweep,          ///< the one with the smallest squared error of all
};
std::optional<BlockScale> find_block_scale(std::string_view name);  ///< "plain", "four_over_six", "sweep"

/// The divisor that a tensor (or several that share one) of this largest magnitude is stored with: block scales are
/// E4M3(divisor * max |block| / 6), so that the largest becomes 448; 256 unless plain, for room above max |block| / 6.
/// compressed-tensors stores this number (weight_global_scale), ModelOpt its reciprocal (weight_scale_2). 1 for a
/// tensor of zeros.
float nvfp4_divisor(float magnitude, BlockScale choice);

/// The scales of the blocks of 16 of a row: `scales` [n / 16] as E4M3 codes, never 0 or NaN; 1.0 for a block of zeros.
/// A weight w is stored as the E2M1 number nearest to w / (scale / divisor), ties to even.
///   hessian  null, or [n / 16][16][16] symmetric: then errors are d^T H d instead of d^T d (not for plain)
void nvfp4_scales(std::span<const float> x, float divisor, BlockScale choice, const float* hessian,
                  std::uint8_t* scales);
/// Codes by given scales: `packed` [n / 2], the even column in the low nibble; zero has no sign.
float encode_nvfp4(std::span<const float> x, float divisor, const std::uint8_t* scales, std::uint8_t* packed);
void decode_nvfp4(const std::uint8_t* packed, const std::uint8_t* scales, float divisor, std::span<float> x);

/// Which power of two becomes the scale of a block of MXFP4; m = max |block|.
enum class PowerScale {
  floor,    ///< 2^(floor(log2 m) - 2): OCP MX 1.0, section 6.3; what lies beyond 6 is clipped
  nearest,  ///< one more where m >= 1.75 * 2^floor(log2 m): what compressed-tensors does
  search,   ///< of the two, the one with the smaller squared error
};
std::optional<PowerScale> find_power_scale(std::string_view name);

/// The scales of the blocks of 32 of a row, as E8M0 codes (2^(code - 127)), never NaN; 1.0 for a block of zeros.
void mxfp4_scales(std::span<const float> x, PowerScale choice, std::uint8_t* scales);
float encode_mxfp4(std::span<const float> x, const std::uint8_t* scales, std::uint8_t* packed);
void decode_mxfp4(const std::uint8_t* packed, const std::uint8_t* scales, std::span<float> x);

}  // namespace fettle::kit
