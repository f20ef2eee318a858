// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/input_grid.h"

#include "fettle_kit/compress/float_grids.h"
#include "fettle_kit/tensor/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fettle::kit {
namespace {

using Kind = InputGrid::Kind;
constexpr std::int64_t rows = 5, cols = 64;

std::vector<float> inputs() {
  std::vector<float> x(rows * cols);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>((philox_uniform(3, 0, i) - 0.5) * std::ldexp(1.0, static_cast<int>(i % 11) - 4));
  std::fill(x.begin() + cols, x.begin() + 2 * cols, 0.0F);
  return x;
}

std::vector<float> rounded(const std::vector<float>& x, const InputGrid& grid) {
  std::vector<float> out(x.size());
  round_inputs(MutMatrix(out.data(), rows, cols), ConstMatrix(x.data(), rows, cols), grid);
  return out;
}

/// The scale that takes the largest of `count` values from `at` on to `top`.
float scale_to(const std::vector<float>& x, std::size_t at, std::size_t count, float top) {
  float most = 0;
  for (std::size_t i = at; i < at + count; ++i) most = std::max(most, std::fabs(x[i]));
  return most == 0 ? 1 : most / top;
}

struct Case {
  const char* name;
  InputGrid grid;
  float (*expected)(const std::vector<float>& x, std::size_t at);
};

class InputGrids : public ::testing::TestWithParam<Case> {};

TEST_P(InputGrids, RoundEachValueByTheScaleItHas) {
  const std::vector<float> x = inputs(), y = rounded(x, GetParam().grid);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], GetParam().expected(x, i)) << i << ' ' << x[i];
}

TEST_P(InputGrids, KeepNan) {
  std::vector<float> x = inputs();
  x[70] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(rounded(x, GetParam().grid)[70]));
  EXPECT_FALSE(std::isnan(rounded(x, GetParam().grid)[0]));
}

float e4m3(float x, float scale) { return from_e4m3(to_e4m3(x / scale)) * scale; }

INSTANTIATE_TEST_SUITE_P(
    Rows, InputGrids,
    ::testing::Values(Case{"none", {}, [](const std::vector<float>& x, std::size_t at) { return x[at]; }},
                      Case{"fp8_fixed",
                           {Kind::fp8_fixed, 0.01F, 0},
                           [](const std::vector<float>& x, std::size_t at) { return e4m3(x[at], 0.01F); }},
                      Case{"fp8_token",
                           {Kind::fp8_token, 1, 0},
                           [](const std::vector<float>& x, std::size_t at) {
                             return e4m3(x[at], scale_to(x, at / cols * cols, cols, 448));
                           }},
                      Case{"fp8_group",
                           {Kind::fp8_group, 1, 16},
                           [](const std::vector<float>& x, std::size_t at) {
                             return e4m3(x[at], scale_to(x, at / 16 * 16, 16, 448));
                           }},
                      Case{"int8_fixed",
                           {Kind::int8_fixed, 0.05F, 0},
                           [](const std::vector<float>& x, std::size_t at) {
                             return std::clamp(std::nearbyint(x[at] / 0.05F), -128.0F, 127.0F) * 0.05F;
                           }},
                      Case{"int8_token",
                           {Kind::int8_token, 1, 0},
                           [](const std::vector<float>& x, std::size_t at) {
                             const float scale = scale_to(x, at / cols * cols, cols, 127.5F);
                             return std::clamp(std::nearbyint(x[at] / scale), -128.0F, 127.0F) * scale;
                           }},
                      Case{"nvfp4",
                           {Kind::nvfp4, 90, 0},
                           [](const std::vector<float>& x, std::size_t at) {
                             const float most = scale_to(x, at / 16 * 16, 16, 1);
                             const float block = std::max(0x1p-9F, from_e4m3(to_e4m3(90 * most / 6)));
                             return nearest_e2m1(x[at] / (block / 90)) * (block / 90);
                           }},
                      Case{"mxfp4",
                           {Kind::mxfp4, 1, 0},
                           [](const std::vector<float>& x, std::size_t at) {
                             const float most = scale_to(x, at / 32 * 32, 32, 1);
                             int exponent = 0;
                             const float fraction = std::frexp(most, &exponent);  // in [0.5, 1)
                             const float scale = std::ldexp(1.0F, exponent - 3 + (fraction >= 0.875F));
                             return nearest_e2m1(x[at] / scale) * scale;
                           }}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace fettle::kit
