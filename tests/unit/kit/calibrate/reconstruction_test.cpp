// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/calibrate/reconstruction.h"

#include <gtest/gtest.h>

#include <vector>

namespace fettle::kit {
namespace {

StoredMatrix stored(const std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  return {reinterpret_cast<const std::byte*>(values.data()), DType::f32, rows, cols};
}

TEST(ReconstructionError, IsTheShareOfTheOutputsThatMoved) {
  const std::vector<float> x{1, 2}, w{3, 1, 0, 4}, changed{3, 0, 0, 4};
  ReconstructionError error;
  error.add({x.data(), 1, 2}, stored(w, 2, 2), stored(changed, 2, 2));
  EXPECT_DOUBLE_EQ(error.relative(), 4.0 / (25 + 64));  // outputs 5 and 8; the first moved by 2
}

TEST(ReconstructionError, AddsPortions) {
  const std::vector<float> x{1, 2, -1, 0.5F}, w{3, 1, 0, 4}, changed{3, 0, 0, 4};
  ReconstructionError whole, parts;
  whole.add({x.data(), 2, 2}, stored(w, 2, 2), stored(changed, 2, 2));
  parts.add({x.data(), 1, 2}, stored(w, 2, 2), stored(changed, 2, 2));
  parts.add({x.data() + 2, 1, 2}, stored(w, 2, 2), stored(changed, 2, 2));
  EXPECT_EQ(whole.relative(), parts.relative());
}

TEST(ReconstructionError, IsOneForAMatrixThatIsGone) {
  const std::vector<float> x{1, 2}, w{3, 1, 0, 4}, gone(4);
  ReconstructionError error;
  error.add({x.data(), 1, 2}, stored(w, 2, 2), stored(gone, 2, 2));
  EXPECT_EQ(error.relative(), 1);
}

TEST(ReconstructionError, IsZeroWhereNothingComesOut) {
  const std::vector<float> x{0, 0}, w{3, 1, 0, 4};
  ReconstructionError error;
  error.add({x.data(), 1, 2}, stored(w, 2, 2), stored(w, 2, 2));
  EXPECT_EQ(error.relative(), 0);
}

}  // namespace
}  // namespace fettle::kit
