// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/nn/activation.h"

#include "fettle_kit/nn/reference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace fettle::kit {
namespace {

using testing::FloatNear;
using testing::Pointwise;

TEST(GatedActivation, SiluTimesUp) {
  std::vector<float> gate{0, 1, -1, 20}, up{5, 2, 2, 1};
  gated_activation(MutMatrix(gate.data(), 2, 2), ConstMatrix(up.data(), 2, 2), Activation::silu);
  EXPECT_THAT(gate, Pointwise(FloatNear(1e-6f), {0.f, 2 * 0.7310586f, -2 * 0.26894143f, 20.f}));
}

TEST(GatedActivation, TanhGeluTimesUp) {
  std::vector<float> gate{0, 1, -1, 10}, up{5, 2, 2, 1};
  gated_activation(MutMatrix(gate.data(), 2, 2), ConstMatrix(up.data(), 2, 2), Activation::gelu_tanh);
  EXPECT_THAT(gate, Pointwise(FloatNear(1e-6f), {0.f, 2 * 0.84119199f, -2 * 0.15880801f, 10.f}));
}

TEST(GatedActivation, AgreesWithTheReference) {
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    std::vector<float> fast, up;
    for (int i = 0; i < 3 * 77; ++i)
      fast.push_back(static_cast<float>(i) / 10 - 12), up.push_back(static_cast<float>(i % 5) - 2);
    std::vector<float> plain = fast;
    gated_activation(MutMatrix(fast.data(), 3, 77), ConstMatrix(up.data(), 3, 77), activation);
    reference::gated_activation(MutMatrix(plain.data(), 3, 77), ConstMatrix(up.data(), 3, 77), activation);
    EXPECT_THAT(fast, Pointwise(FloatNear(2e-6f), plain));
  }
}

TEST(AddBias, AddsTheSameVectorToEveryRow) {
  std::vector<float> x{1, 2, 3, 4};
  add_bias(MutMatrix(x.data(), 2, 2), std::vector<float>{10, 20});
  EXPECT_THAT(x, testing::ElementsAre(11, 22, 13, 24));
}

TEST(Softcap, BendsTowardsTheCap) {
  std::vector<float> x{0, 30, -1000};
  softcap(MutMatrix(x.data(), 1, 3), 30);
  EXPECT_THAT(x, Pointwise(FloatNear(1e-4f), {0.f, 30 * 0.76159416f, -30.f}));
}

}  // namespace
}  // namespace fettle::kit
