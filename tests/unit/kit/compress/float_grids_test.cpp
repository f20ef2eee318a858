// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/float_grids.h"

#include "fettle_kit/compress/float_lanes.h"
#include "fettle_kit/kernels/kernels.h"
#include "fettle_kit/tensor/dtype.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

std::vector<float> gaussian(std::size_t n, unsigned seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, power = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
    power += std::pow(static_cast<double>(x[i]), 2);
  }
  return error / power;
}

std::vector<float> through_nvfp4(const std::vector<float>& x, BlockScale choice, const float* hessian = nullptr) {
  const float divisor = nvfp4_divisor(largest_magnitude(x), choice);
  std::vector<std::uint8_t> scales(x.size() / 16), packed(x.size() / 2);
  nvfp4_scales(x, divisor, choice, hessian, scales.data());
  encode_nvfp4(x, divisor, scales.data(), packed.data());
  std::vector<float> y(x.size());
  decode_nvfp4(packed.data(), scales.data(), divisor, y);
  return y;
}

std::vector<float> through_mxfp4(const std::vector<float>& x, PowerScale choice) {
  std::vector<std::uint8_t> scales(x.size() / 32), packed(x.size() / 2);
  mxfp4_scales(x, choice, scales.data());
  encode_mxfp4(x, scales.data(), packed.data());
  std::vector<float> y(x.size());
  decode_mxfp4(packed.data(), scales.data(), y);
  return y;
}

TEST(E4m3, DecodesEveryCodeAsTheTypeTableDoes) {
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<std::byte>(code);
    float expected = 0;
    info(DType::f8_e4m3).to_f32(&byte, &expected, 1);
    const float value = from_e4m3(static_cast<std::uint8_t>(code));
    EXPECT_TRUE(std::bit_cast<std::uint32_t>(value) == std::bit_cast<std::uint32_t>(expected) ||
                (std::isnan(value) && std::isnan(expected)))
        << code;
  }
}

TEST(E4m3, EncodesEveryNumberAsItself) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    EXPECT_EQ(to_e4m3(from_e4m3(static_cast<std::uint8_t>(code))), code);
  }
}

TEST(E4m3, RoundsToNearestAndTiesToEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = from_e4m3(static_cast<std::uint8_t>(code)), high = from_e4m3(static_cast<std::uint8_t>(code + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(to_e4m3(middle), code + code % 2) << middle;
    EXPECT_EQ(to_e4m3(std::nextafter(middle, low)), code) << middle;
    EXPECT_EQ(to_e4m3(std::nextafter(middle, high)), code + 1) << middle;
    EXPECT_EQ(to_e4m3(-middle), (code + code % 2) | 0x80) << middle;
  }
}

TEST(E4m3, SaturatesAtItsLargestNumber) {
  for (const float x : {449.0F, 464.0F, 465.0F, 1e30F, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(to_e4m3(x), 0x7e) << x;
    EXPECT_EQ(to_e4m3(-x), 0xfe) << x;
  }
}

TEST(E4m3, DividesByTheScale) {
  const std::vector<float> x = gaussian(1001);
  std::vector<std::uint8_t> codes(x.size());
  encode_e4m3(x, 0.0123F, codes.data());
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(codes[i], to_e4m3(x[i] / 0.0123F));
}

TEST(E4m3, SumsTheErrorsOfEveryLength) {
  const std::vector<float> x = gaussian(70);
  for (std::size_t n = 0; n <= x.size(); ++n) {
    double error = 0, power = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double v = static_cast<double>(x[i]);
      error += std::pow(v - static_cast<double>(from_e4m3(to_e4m3(x[i] / 0.1F)) * 0.1F), 2);
      power += v * v;
    }
    std::vector<std::uint8_t> codes(n);
    EXPECT_NEAR(static_cast<double>(encode_e4m3({x.data(), n}, 0.1F, codes.data())), error, 1e-5 * error);
    EXPECT_NEAR(static_cast<double>(sum_of_squares({x.data(), n})), power, 1e-5 * power);
  }
}

TEST(LargestMagnitude, FindsItInAnyLaneAndShowsNan) {
  for (std::size_t n = 0; n < 70; ++n)
    for (std::size_t at = 0; at < n; ++at) {
      std::vector<float> x(n, 0.5F);
      x[at] = -3;
      EXPECT_EQ(largest_magnitude(x), 3.0F);
      x[at] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_TRUE(std::isnan(largest_magnitude(x)));
    }
  EXPECT_EQ(largest_magnitude({}), 0.0F);
}

/// float_lanes_plain and those that this machine runs.
std::vector<const FloatLanes*> usable_lanes() {
  std::vector<const FloatLanes*> all{&float_lanes_plain};
  for (const KernelTable* table : usable_kernels()) {
    if (table->vectors == Vectors::avx2) all.push_back(&float_lanes_avx2);
    if (table->vectors == Vectors::avx512) all.push_back(&float_lanes_avx512);
  }
  return all;
}

TEST(FloatLanes, GiveTheSameBytesOnEveryInstructionSet) {
  std::vector<float> x = gaussian(4096);
  for (std::size_t i = 0; i < x.size(); i += 37) x[i] *= std::ldexp(1.0F, static_cast<int>(i % 90) - 60);
  x[5] = 0;
  x[6] = -0.0F;
  const std::vector<float> scales = [&] {
    std::vector<float> s(256);
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = 0.01F + 0.003F * static_cast<float>(i);
    return s;
  }();
  const std::vector<float> hessian = gaussian(256, 2);
  struct Out {
    std::vector<std::uint8_t> e4m3, e2m1;
    std::vector<float> errors, candidates, weighted, magnitudes, quotients;
    std::uint32_t largest = 0;
    float error = 0, four_error = 0, power = 0;
    bool operator==(const Out&) const = default;
  };
  std::vector<Out> outs;
  for (const FloatLanes* lanes : usable_lanes()) {
    Out out{std::vector<std::uint8_t>(x.size() - 3),
            std::vector<std::uint8_t>(x.size() / 2),
            std::vector<float>(256),
            std::vector<float>(256),
            std::vector<float>(256),
            std::vector<float>(128),
            std::vector<float>(128)};
    out.largest = lanes->magnitude(x.data(), x.size() - 3);
    out.error = lanes->e4m3(x.data(), x.size() - 3, 0.013F, out.e4m3.data());
    out.power = lanes->squares(x.data(), x.size() - 3);
    std::vector<std::uint8_t> codes(128);
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(std::min<std::size_t>(i, 126));
    lanes->e4m3_quotients(codes.data(), codes.size(), 3.7F, out.quotients.data());
    out.four_error = lanes->e2m1(x.data(), 256, 16, scales.data(), out.e2m1.data());
    lanes->e2m1_errors(x.data(), 256, 16, scales.data(), out.errors.data());
    lanes->e2m1_candidates(x.data() + 32, scales.data(), 256, nullptr, out.candidates.data());
    lanes->e2m1_candidates(x.data() + 32, scales.data(), 256, hessian.data(), out.weighted.data());
    lanes->block_magnitudes(x.data(), 128, 32, out.magnitudes.data());
    outs.push_back(std::move(out));
  }
  for (const Out& out : outs) EXPECT_TRUE(out == outs.front());
}

// Where a quotient that is off by its last bit would give another code: around the middle of two codes.
TEST(FloatLanes, DivideExactlyWhereItMatters) {
  const std::vector<float> random = gaussian(2000, 3);
  for (const float r : random) {
    const float scale = std::fabs(r) * 0.001F + 1e-6F;
    std::vector<float> x;
    for (int code = 0; code < 0x7e; ++code) {
      const float middle =
          (from_e4m3(static_cast<std::uint8_t>(code)) + from_e4m3(static_cast<std::uint8_t>(code + 1))) / 2 * scale;
      float low = middle;
      for (int i = 0; i < 3; ++i) low = std::nextafter(low, 0.0F);
      for (int i = 0; i < 7; ++i, low = std::nextafter(low, 1e9F)) x.push_back(low);
    }
    x.resize(x.size() / 16 * 16);
    std::vector<std::uint8_t> expected(x.size()), packed_expected(x.size() / 2);
    float_lanes_plain.e4m3(x.data(), x.size(), scale, expected.data());
    const std::vector<float> scales(x.size() / 16, scale * 4);
    float_lanes_plain.e2m1(x.data(), x.size() / 16, 16, scales.data(), packed_expected.data());
    for (const FloatLanes* lanes : usable_lanes()) {
      std::vector<std::uint8_t> codes(x.size()), packed(x.size() / 2);
      lanes->e4m3(x.data(), x.size(), scale, codes.data());
      lanes->e2m1(x.data(), x.size() / 16, 16, scales.data(), packed.data());
      ASSERT_EQ(codes, expected) << scale;
      ASSERT_EQ(packed, packed_expected) << scale;
    }
  }
}

TEST(E2m1, RoundsToNearestAndTiesToEven) {
  constexpr std::array<float, 8> values{0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  std::vector<float> x, expected;
  for (std::size_t code = 0; code < 7; ++code) {
    const float middle = (values[code] + values[code + 1]) / 2;
    x.insert(x.end(), {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 9.0F), -middle});
    const float even = values[code + code % 2];
    expected.insert(expected.end(), {even, values[code], values[code + 1], -even});
  }
  x.insert(x.end(), {7, -7, 1e30F, 0});
  expected.insert(expected.end(), {6, -6, 6, 0});
  const std::array<std::uint8_t, 2> ones{0x38, 0x38};
  std::vector<std::uint8_t> packed(16);
  encode_nvfp4(x, 1.0F, ones.data(), packed.data());
  std::vector<float> y(32);
  decode_nvfp4(packed.data(), ones.data(), 1.0F, y);
  EXPECT_EQ(y, expected);
}

TEST(E2m1, GivesZeroNoSign) {
  std::vector<float> x(16, -0.01F);
  x[3] = -0.0F;
  const std::uint8_t one = 0x38;
  std::vector<std::uint8_t> packed(8, 0xff);
  encode_nvfp4(x, 1.0F, &one, packed.data());
  EXPECT_EQ(packed, std::vector<std::uint8_t>(8, 0));
}

// w[j][i] = (((37 i + 11 j) mod 29) - 14) / 8: the vector of the format notes, made with compressed-tensors.
TEST(Nvfp4, WritesTheBytesOfTheGoldenVector) {
  std::vector<float> w;
  for (int j = 0; j < 2; ++j)
    for (int i = 0; i < 32; ++i) w.push_back(static_cast<float>((37 * i + 11 * j) % 29 - 14) / 8);
  const float divisor = nvfp4_divisor(largest_magnitude(w), BlockScale::plain);
  EXPECT_EQ(divisor, 1536.0F);
  std::vector<std::uint8_t> scales(4), packed(32);
  nvfp4_scales(w, divisor, BlockScale::plain, nullptr, scales.data());
  encode_nvfp4(w, divisor, scales.data(), packed.data());
  EXPECT_EQ(scales, std::vector<std::uint8_t>(4, 0x7e));
  std::string hex;
  for (const std::uint8_t byte : packed) {
    constexpr const char* digits = "0123456789abcdef";
    hex += {digits[byte >> 4], digits[byte & 15]};
  }
  EXPECT_EQ(hex, "df62be740df53ce65ad761bf739ef52d4bd750cf63ae751df63be759df62be74");
}

TEST(Nvfp4, GivesABlockOfZerosTheScaleOne) {
  for (const BlockScale choice : {BlockScale::plain, BlockScale::four_over_six, BlockScale::sweep}) {
    std::vector<float> x = gaussian(48);
    std::fill(x.begin() + 16, x.begin() + 32, 0.0F);
    std::vector<std::uint8_t> scales(3);
    nvfp4_scales(x, nvfp4_divisor(largest_magnitude(x), choice), choice, nullptr, scales.data());
    EXPECT_EQ(scales[1], 0x38);
    EXPECT_EQ(through_nvfp4(std::vector<float>(32), choice), std::vector<float>(32));
  }
}

TEST(Nvfp4, NeverWritesAScaleOfZeroOrNan) {
  std::vector<float> x = gaussian(16 * 80);
  for (std::size_t b = 0; b < 80; ++b)
    for (std::size_t i = 0; i < 16; ++i) x[b * 16 + i] *= std::ldexp(1.0F, 20 - static_cast<int>(b));
  for (const BlockScale choice : {BlockScale::plain, BlockScale::four_over_six, BlockScale::sweep}) {
    std::vector<std::uint8_t> scales(80);
    nvfp4_scales(x, nvfp4_divisor(largest_magnitude(x), choice), choice, nullptr, scales.data());
    for (const std::uint8_t scale : scales) {
      EXPECT_GT(scale, 0);
      EXPECT_LT(scale, 0x7f);
    }
  }
}

double block_error(const std::vector<float>& x, float divisor, std::uint8_t scale, std::size_t block) {
  std::vector<std::uint8_t> packed(8);
  std::vector<float> y(16);
  const std::span<const float> part(x.data() + block * 16, 16);
  encode_nvfp4(part, divisor, &scale, packed.data());
  decode_nvfp4(packed.data(), &scale, divisor, y);
  double error = 0;
  for (std::size_t i = 0; i < 16; ++i) error += std::pow(static_cast<double>(part[i]) - static_cast<double>(y[i]), 2);
  return error;
}

TEST(Nvfp4, LosesNoMoreThroughABetterChoiceInAnyBlock) {
  const std::vector<float> x = gaussian(16 * 500);
  const float divisor = nvfp4_divisor(largest_magnitude(x), BlockScale::sweep);
  std::vector<std::uint8_t> plain(500), either(500), best(500);
  nvfp4_scales(x, divisor, BlockScale::plain, nullptr, plain.data());
  nvfp4_scales(x, divisor, BlockScale::four_over_six, nullptr, either.data());
  nvfp4_scales(x, divisor, BlockScale::sweep, nullptr, best.data());
  int fours = 0;
  for (std::size_t b = 0; b < 500; ++b) {
    const double p = block_error(x, divisor, plain[b], b), e = block_error(x, divisor, either[b], b),
                 s = block_error(x, divisor, best[b], b);
    EXPECT_LE(e, p * (1 + 1e-5));
    EXPECT_LE(s, e * (1 + 1e-5));
    fours += either[b] != plain[b];
  }
  EXPECT_NEAR(fours / 500.0, 0.45, 0.07);  // of Gaussian blocks
}

TEST(Nvfp4, WeighsErrorsByTheHessianWhereThereIsOne) {
  const std::vector<float> x = gaussian(16 * 200);
  std::vector<float> hessian(200 * 256);
  for (std::size_t b = 0; b < 200; ++b)
    for (std::size_t i = 0; i < 16; ++i) hessian[b * 256 + i * 17] = i == 3 ? 100.0F : 0.01F;
  const std::vector<float> weighted = through_nvfp4(x, BlockScale::sweep, hessian.data()),
                           equal = through_nvfp4(x, BlockScale::sweep);
  double third_weighted = 0, third_equal = 0;
  for (std::size_t i = 3; i < x.size(); i += 16) {
    third_weighted += std::pow(static_cast<double>(x[i] - weighted[i]), 2);
    third_equal += std::pow(static_cast<double>(x[i] - equal[i]), 2);
  }
  EXPECT_LT(third_weighted, 0.2 * third_equal);
}

TEST(Mxfp4, TakesThePowerOfTwoOfItsRule) {
  struct Case {
    float magnitude;
    int floor, nearest;
  };
  for (const Case& c : {Case{1.0F, 125, 125}, Case{1.74F, 125, 125}, Case{1.75F, 125, 126}, Case{2.0F, 126, 126},
                        Case{6.0F, 127, 127}, Case{7.0F, 127, 128}, Case{1e-38F, 1, 1}, Case{3e38F, 252, 253}}) {
    std::vector<float> x(32, c.magnitude / 3);
    x[7] = -c.magnitude;
    std::uint8_t scale = 0;
    mxfp4_scales(x, PowerScale::floor, &scale);
    EXPECT_EQ(scale, c.floor) << c.magnitude;
    mxfp4_scales(x, PowerScale::nearest, &scale);
    EXPECT_EQ(scale, c.nearest) << c.magnitude;
  }
}

TEST(Mxfp4, GivesABlockOfZerosTheScaleOne) {
  std::uint8_t scale = 0;
  mxfp4_scales(std::vector<float>(32), PowerScale::search, &scale);
  EXPECT_EQ(scale, 127);
  EXPECT_EQ(through_mxfp4(std::vector<float>(32), PowerScale::floor), std::vector<float>(32));
}

// Relative squared errors on N(0,1), to 1 %. 0.00071 and the rest: computed once in f64 with a million samples.
TEST(FloatGrids, LoseWhatTheoryExpectsOnGaussianWeights) {
  const std::vector<float> x = gaussian(1 << 20, 7);
  std::vector<std::uint8_t> codes(x.size());
  encode_e4m3(x, 0.001F * 19.7F, codes.data());  // no weight near the subnormals, none clipped
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = from_e4m3(codes[i]) * (0.001F * 19.7F);
  EXPECT_NEAR(relative_error(x, y), 0.00071, 0.0000071 + 0.000005);  // the table has two digits
  EXPECT_NEAR(relative_error(x, through_nvfp4(x, BlockScale::plain)), 0.00905, 0.00009);
  EXPECT_NEAR(relative_error(x, through_nvfp4(x, BlockScale::four_over_six)), 0.00756, 0.000076);
  EXPECT_LT(relative_error(x, through_nvfp4(x, BlockScale::sweep)), 0.0075);
  EXPECT_NEAR(relative_error(x, through_mxfp4(x, PowerScale::floor)), 0.01326, 0.00013);
  EXPECT_LT(relative_error(x, through_mxfp4(x, PowerScale::search)),
            relative_error(x, through_mxfp4(x, PowerScale::nearest)));
}

}  // namespace
}  // namespace fettle::kit
