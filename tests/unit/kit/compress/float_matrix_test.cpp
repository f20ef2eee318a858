// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/float_matrix.h"

#include "fettle_kit/tensor/philox.h"

#include <gtest/gtest.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fettle::kit {
namespace {

std::vector<float> weights(std::int64_t n) {
  std::vector<float> w(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < w.size(); ++i)
    w[i] =
        static_cast<float>((philox_uniform(1, 0, i) + philox_uniform(1, 1, i) - 1) * (1 + static_cast<double>(i % 7)));
  return w;
}

TensorView tensor_of(const std::vector<float>& w, std::int64_t rows, std::int64_t cols) {
  return {"w", DType::f32, {rows, cols}, std::as_bytes(std::span(w))};
}

std::vector<float> values_of(const FloatMatrix& m) {
  std::vector<float> values(static_cast<std::size_t>(m.rows * m.cols));
  m.view().read(0, MutMatrix(values.data(), m.rows, m.cols));
  return values;
}

float magnitude_of(const std::vector<float>& w, std::int64_t cols, std::int64_t i0, std::int64_t i1, std::int64_t j0,
                   std::int64_t j1) {
  float most = 0;
  for (std::int64_t i = i0; i < i1; ++i)
    for (std::int64_t j = j0; j < j1; ++j) most = std::max(most, std::fabs(w[static_cast<std::size_t>(i * cols + j)]));
  return most;
}

FloatScheme fp8(Fp8Sharing sharing, DType scales) {
  FloatScheme s;
  s.sharing = sharing;
  s.scale_type = scales;
  return s;
}
FloatScheme nvfp4(BlockScale choice, bool reciprocal = false) {
  FloatScheme s;
  s.reciprocal = reciprocal;
  s.kind = FloatKind::nvfp4;
  s.block_scale = choice;
  return s;
}
FloatScheme mxfp4(PowerScale choice) {
  FloatScheme s;
  s.kind = FloatKind::mxfp4;
  s.power_scale = choice;
  return s;
}

struct Case {
  const char* name;
  FloatScheme scheme;
  std::int64_t rows, cols;
};

class FloatMatrices : public ::testing::TestWithParam<Case> {
 protected:
  const std::vector<float> w = weights(GetParam().rows * GetParam().cols);
  FloatMatrix rounded() const {
    const TensorView t = tensor_of(w, GetParam().rows, GetParam().cols);
    return *round_to_floats(t, GetParam().scheme, largest_magnitude(t));
  }
};

/// One weight after the other, from the description of the formats alone.
TEST_P(FloatMatrices, AreWhatTheNaiveReferenceSays) {
  const auto& [name, s, rows, cols] = GetParam();
  const std::int64_t down = s.packed() || s.sharing == Fp8Sharing::channel ? 1
                            : s.sharing == Fp8Sharing::block               ? 128
                                                                           : rows;
  const std::int64_t across = s.packed() ? s.block() : s.sharing == Fp8Sharing::block ? 128 : cols;
  const float divisor = nvfp4_divisor(magnitude_of(w, cols, 0, rows, 0, cols), s.block_scale);
  std::vector<float> expected(w.size());
  double error = 0, power = 0;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      const auto at = static_cast<std::size_t>(i * cols + j);
      const std::int64_t i0 = i / down * down, j0 = j / across * across;
      const std::int64_t j1 = std::min(cols, j0 + across);
      const std::span<const float> block(w.data() + i * cols + j0, static_cast<std::size_t>(j1 - j0));
      std::uint8_t code = 0;
      float scale = 0;
      if (s.kind == FloatKind::fp8) {
        scale = fp8_scale(magnitude_of(w, cols, i0, std::min(rows, i0 + down), j0, j1), s.scale_type);
        expected[at] = from_e4m3(to_e4m3(w[at] / scale)) * scale;
      } else {
        if (s.kind == FloatKind::nvfp4) {
          nvfp4_scales(block, divisor, s.block_scale, nullptr, &code);
          scale = s.reciprocal ? from_e4m3(code) * (1 / divisor) : from_e4m3(code) / divisor;
        } else {
          mxfp4_scales(block, s.power_scale, &code);
          scale = std::ldexp(1.0F, code - 127);
        }
        expected[at] = nearest_e2m1(w[at] / scale) * scale;
      }
      error += std::pow(static_cast<double>(w[at]) - static_cast<double>(expected[at]), 2);
      power += std::pow(static_cast<double>(w[at]), 2);
    }
  const FloatMatrix m = rounded();
  EXPECT_EQ(values_of(m), expected);
  EXPECT_NEAR(m.error / error, 1, 1e-5);
  EXPECT_NEAR(m.power / power, 1, 1e-5);
}

TEST_P(FloatMatrices, HaveTheSameBytesForAnyThreadCount) {
  FloatMatrix one, many;
  tbb::task_arena(1).execute([&] { one = rounded(); });
  tbb::task_arena(7).execute([&] { many = rounded(); });
  EXPECT_EQ(one.codes, many.codes);
  EXPECT_EQ(one.block_scales, many.block_scales);
  EXPECT_EQ(one.scales, many.scales);
  EXPECT_EQ(one.error, many.error);
}

TEST_P(FloatMatrices, StayWhatTheyAreWhenRoundedAgain) {
  FloatMatrix m = rounded();
  const std::vector<float> values = values_of(m);
  const FloatRounding rounding(m);
  for (std::int64_t i = 0; i < m.rows; ++i)
    for (std::int64_t j = 0; j < m.cols; ++j) {
      const auto at = static_cast<std::size_t>(i * m.cols + j);
      ASSERT_EQ(rounding.nearest(i, j, values[at]), values[at]);
      ASSERT_EQ(rounding.nearest(i, j, w[at]), values[at]);
    }
  const std::vector<std::uint8_t> codes = std::exchange(m.codes, std::vector<std::uint8_t>(m.codes.size()));
  encode_again(m, ConstMatrix(w.data(), m.rows, m.cols));
  EXPECT_EQ(m.codes, codes);
}

INSTANTIATE_TEST_SUITE_P(Rows, FloatMatrices,
                         ::testing::Values(Case{"fp8_tensor", fp8(Fp8Sharing::tensor, DType::bf16), 37, 75},
                                           Case{"fp8_channel", fp8(Fp8Sharing::channel, DType::f16), 37, 75},
                                           Case{"fp8_channel_wide", fp8(Fp8Sharing::channel, DType::f32), 3, 1001},
                                           Case{"fp8_block", fp8(Fp8Sharing::block, DType::f32), 256, 384},
                                           Case{"fp8_ragged_block", fp8(Fp8Sharing::block, DType::bf16), 131, 200},
                                           Case{"nvfp4_plain", nvfp4(BlockScale::plain), 19, 80},
                                           Case{"nvfp4_four_over_six", nvfp4(BlockScale::four_over_six), 33, 2064},
                                           Case{"nvfp4_modelopt", nvfp4(BlockScale::plain, true), 19, 80},
                                           Case{"nvfp4_sweep", nvfp4(BlockScale::sweep), 19, 80},
                                           Case{"mxfp4_floor", mxfp4(PowerScale::floor), 17, 96},
                                           Case{"mxfp4_nearest", mxfp4(PowerScale::nearest), 17, 96},
                                           Case{"mxfp4_search", mxfp4(PowerScale::search), 17, 2080}),
                         [](const auto& row) { return row.param.name; });

TEST(FloatMatrix, GivesRowsOfZerosTheScaleOne) {
  std::vector<float> w = weights(4 * 32);
  std::fill(w.begin() + 32, w.begin() + 64, 0.0F);
  const FloatMatrix m = *round_to_floats(tensor_of(w, 4, 32), fp8(Fp8Sharing::channel, DType::bf16), 0);
  EXPECT_EQ(m.scales[1], 1.0F);
  const std::vector<float> values = values_of(m);
  EXPECT_EQ(std::vector<float>(values.begin() + 32, values.begin() + 64), std::vector<float>(32));
}

TEST(FloatMatrix, NeverHasAScaleThatItsTypeCannotHold) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16})
    for (const float magnitude : {1e-45F, 1e-38F, 1e-6F, 1.0F, 65504.0F}) {
      const float scale = fp8_scale(magnitude, type);
      EXPECT_GT(scale, 0);
      EXPECT_TRUE(std::isnormal(scale));
      std::array<std::byte, 4> stored{};
      float read = 0;
      info(type).from_f32(&scale, stored.data(), 1);
      info(type).to_f32(stored.data(), &read, 1);
      EXPECT_EQ(read, scale) << info(type).name << ' ' << magnitude;
    }
}

TEST(FloatMatrix, RefusesNanAndInfinity) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    for (const FloatScheme& s : {fp8(Fp8Sharing::channel, DType::f32), fp8(Fp8Sharing::block, DType::f32),
                                 nvfp4(BlockScale::sweep), mxfp4(PowerScale::search)}) {
      std::vector<float> w = weights(64 * 64);
      w[1234] = bad;
      const auto m = round_to_floats(tensor_of(w, 64, 64), s, 1);
      ASSERT_FALSE(m.ok());
      EXPECT_EQ(m.error().message(),
                "tensor 'w' holds a weight that is NaN or infinite, which no grid holds; repair the model or put the "
                "tensor into 'ignore'");
      EXPECT_FALSE(std::isfinite(largest_magnitude(tensor_of(w, 64, 64))));
    }
}

TEST(FloatMatrix, RoundsTiesOfE2m1ToEvenCodes) {
  const std::vector<std::pair<float, float>> cases = {{0.25F, 0},    {0.75F, 1}, {1.25F, 1},  {1.75F, 2}, {2.5F, 2},
                                                      {3.5F, 4},     {5, 4},     {7, 6},      {-5, -4},   {-0.2F, 0},
                                                      {0.26F, 0.5F}, {5.01F, 6}, {-1e30F, -6}};
  for (const auto& [x, expected] : cases) EXPECT_EQ(nearest_e2m1(x), expected) << x;
}

}  // namespace
}  // namespace fettle::kit
