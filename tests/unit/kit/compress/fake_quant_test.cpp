// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/fake_quant.h"

#include "fettle_kit/tensor/block_codec.h"
#include "fettle_kit/tensor/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace fettle::kit {
namespace {

struct Matrix {
  std::int64_t rows, cols;
  std::vector<float> data;
  Matrix(std::int64_t r, std::int64_t c, unsigned seed = 0) : rows(r), cols(c), data(static_cast<std::size_t>(r * c)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    if (seed > 0)
      for (float& x : data) x = normal(random);
  }
  StoredMatrix stored() const { return {reinterpret_cast<const std::byte*>(data.data()), DType::f32, rows, cols}; }
  operator MutMatrix() { return {data.data(), rows, cols}; }  // NOLINT(google-explicit-constructor): a view
};

TEST(FakeGguf, GivesWhatTheFileWillHold) {
  for (const DType type : {DType::q4_0, DType::q8_0, DType::q4_k, DType::q6_k, DType::q2_k}) {
    const Matrix w(3, 512, 1);
    Matrix used(3, 512);
    fake_gguf(type)->quantize(used, w.stored(), 0);
    std::vector<std::byte> bytes(w.data.size() / static_cast<std::size_t>(info(type).block_elems) *
                                 static_cast<std::size_t>(info(type).block_bytes));
    info(type).from_f32(w.data.data(), bytes.data(), w.data.size());
    Matrix expected(3, 512);
    info(type).to_f32(bytes.data(), expected.data.data(), expected.data.size());
    EXPECT_EQ(used.data, expected.data) << info(type).name;
  }
}

TEST(FakeGguf, RoundsToAHalfAsAType) {
  const Matrix w(2, 8, 2);
  Matrix used(2, 8);
  fake_gguf(DType::bf16)->quantize(used, w.stored(), 0);
  for (std::size_t i = 0; i < w.data.size(); ++i) EXPECT_NEAR(used.data[i], w.data[i], std::abs(w.data[i]) / 256);
  EXPECT_NE(used.data, w.data);
}

TEST(FakeGguf, ClipsWhereTheEndOfTheGridDecided) {
  Matrix w(1, 32);
  w.data[0] = -8, w.data[1] = 7.4F, w.data[2] = 7.6F, w.data[3] = -7.9F, w.data[4] = 1;
  Matrix gradient(1, 32);
  std::fill(gradient.data.begin(), gradient.data.end(), 1.0F);
  fake_gguf(DType::q4_0)->clip_gradient(gradient, w.stored(), 0);
  EXPECT_EQ(gradient.data[2], 0);
  EXPECT_EQ(std::count(gradient.data.begin(), gradient.data.end(), 1.0F), 31);
}

TEST(FakeGguf, CountsNothingAsClippedWhereTheRangeFits) {
  const Matrix w(4, 256, 3);
  for (const DType type : {DType::q8_0, DType::q4_1, DType::q4_k}) {
    Matrix gradient(4, 256);
    std::fill(gradient.data.begin(), gradient.data.end(), 1.0F);
    fake_gguf(type)->clip_gradient(gradient, w.stored(), 0);
    EXPECT_EQ(std::count(gradient.data.begin(), gradient.data.end(), 0.0F), 0) << info(type).name;
  }
}

TEST(FakeGrid, GivesWhatRoundToGridGives) {
  GridScheme scheme;
  scheme.bits = 3;
  scheme.group_size = 32;
  Matrix w(5, 64, 4);
  Matrix used(5, 64);
  fake_grid(scheme)->quantize(used, w.stored(), 0);
  const CodedMatrix coded = round_to_grid(MutMatrix(w), scheme);
  for (std::int64_t i = 0; i < 5; ++i)
    for (std::int64_t j = 0; j < 64; ++j) EXPECT_EQ(MutMatrix(used)(i, j), coded.value(i, j));
}

TEST(FakeGrid, ClipsNothingOfARangeThatIsFitted) {
  for (const bool symmetric : {true, false}) {
    GridScheme scheme;
    scheme.symmetric = symmetric;
    const Matrix w(5, 128, 5);
    Matrix gradient(5, 128);
    std::fill(gradient.data.begin(), gradient.data.end(), 1.0F);
    fake_grid(scheme)->clip_gradient(gradient, w.stored(), 0);
    EXPECT_EQ(std::count(gradient.data.begin(), gradient.data.end(), 0.0F), 0) << symmetric;
  }
}

TEST(FakeGrid, ClipsWhatASmallerRangeCutsOff) {
  GridScheme scheme;
  scheme.bits = 2;
  scheme.search = 2.4;
  const Matrix w(4, 128, 6);
  Matrix used(4, 128), gradient(4, 128);
  std::fill(gradient.data.begin(), gradient.data.end(), 1.0F);
  fake_grid(scheme)->quantize(used, w.stored(), 0);
  fake_grid(scheme)->clip_gradient(gradient, w.stored(), 0);
  std::size_t clipped = 0;
  for (std::size_t i = 0; i < w.data.size(); ++i) {
    if (gradient.data[i] != 0) continue;
    ++clipped;
    EXPECT_GT(std::abs(w.data[i]), std::abs(used.data[i]));
  }
  EXPECT_GT(clipped, 0u);
}

FloatScheme floats(FloatKind kind) {
  FloatScheme scheme;
  scheme.kind = kind;
  scheme.scale_type = DType::bf16;
  return scheme;
}

TEST(FakeFloats, GivesWhatRoundToFloatsGives) {
  for (const FloatKind kind : {FloatKind::fp8, FloatKind::nvfp4, FloatKind::mxfp4}) {
    const Matrix w(5, 64, 7);
    Matrix used(5, 64), expected(5, 64);
    fake_floats(floats(kind))->quantize(used, w.stored(), 4);
    const TensorView view{"w", DType::f32, {5, 64}, std::as_bytes(std::span(w.data))};
    round_to_floats(view, floats(kind), 4)->view().read(0, expected);
    EXPECT_EQ(used.data, expected.data) << static_cast<int>(kind);
  }
}

TEST(FakeFloats, ClipsNothingWhereScalesAreFittedToTheLargest) {
  for (const FloatKind kind : {FloatKind::fp8, FloatKind::nvfp4, FloatKind::mxfp4}) {
    const Matrix w(5, 64, 8);
    Matrix gradient(5, 64);
    std::fill(gradient.data.begin(), gradient.data.end(), 1.0F);
    fake_floats(floats(kind))->clip_gradient(gradient, w.stored(), 4);
    EXPECT_EQ(std::count(gradient.data.begin(), gradient.data.end(), 0.0F), 0) << static_cast<int>(kind);
  }
}

TEST(FakeFloats, ClipsWhatLiesBeyondTheLargestNumber) {
  FloatScheme scheme = floats(FloatKind::mxfp4);
  scheme.power_scale = PowerScale::floor;
  Matrix w(1, 32), gradient(1, 32);
  w.data[0] = 7.9F, w.data[1] = -6.9F, w.data[2] = -7.1F, w.data[3] = 1;  // the scale is 1
  std::fill(gradient.data.begin(), gradient.data.end(), 1.0F);
  fake_floats(scheme)->clip_gradient(gradient, w.stored(), 0);
  EXPECT_EQ(gradient.data[0], 0);
  EXPECT_EQ(gradient.data[2], 0);
  EXPECT_EQ(std::count(gradient.data.begin(), gradient.data.end(), 1.0F), 30);
}

}  // namespace
}  // namespace fettle::kit
