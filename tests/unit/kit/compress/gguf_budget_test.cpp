// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gguf_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace fettle::kit {
namespace {

using testing::ElementsAre;

TEST(SizeTarget, IsBitsAWeightOrBytes) {
  EXPECT_EQ(parse_size_target("4.2bpw")->bits, 4.2);
  EXPECT_EQ(parse_size_target("1.5KiB")->bytes, 1536u);
  EXPECT_EQ(parse_size_target("800MB")->bytes, 800'000'000u);
  EXPECT_EQ(parse_size_target("1.6GiB")->bytes, 1717986918u);
}

TEST(SizeTarget, RefusesAnythingElse) {
  for (const char* text : {"", "4.2", "bpw", "-3bpw", "nanbpw", "33bpw", "0GiB", "4 bpw", "4.2bpwx", "1e30TiB"}) {
    const auto target = parse_size_target(text);
    ASSERT_FALSE(target.ok()) << text;
    EXPECT_EQ(target.error().message(),
              "'" + std::string(text) +
                  "' is no size of a model; write bits a weight or bytes, for example 4.2bpw or 1.6GiB");
  }
}

std::vector<StorageOption> options(std::uint64_t size, double two_bits, double four_bits, double eight_bits) {
  return {{DType::q2_k, size * 2, two_bits}, {DType::q4_k, size * 4, four_bits}, {DType::q8_0, size * 8, eight_bits}};
}

TEST(ChooseStorage, GivesBitsToWhereTheySaveMost) {
  const std::vector<std::vector<StorageOption>> tensors{options(10, 8, 4, 0), options(10, 80, 10, 0)};
  EXPECT_THAT(*choose_storage(tensors, 40), ElementsAre(0, 0));
  EXPECT_THAT(*choose_storage(tensors, 60), ElementsAre(0, 1));
  EXPECT_THAT(*choose_storage(tensors, 100), ElementsAre(0, 2));
  EXPECT_THAT(*choose_storage(tensors, 160), ElementsAre(2, 2));
}

TEST(ChooseStorage, SpendsWhatIsLeftOnASmallerTensor) {
  // The step of the first tensor gains most a byte, but does not fit any more.
  const std::vector<std::vector<StorageOption>> tensors{options(100, 900, 400, 0), options(1, 3, 2, 0)};
  EXPECT_THAT(*choose_storage(tensors, 210), ElementsAre(0, 2));
}

TEST(ChooseStorage, TakesNoOptionThatIsLargerAndWorse) {
  const std::vector<std::vector<StorageOption>> tensors{
      {{DType::q4_k, 45, 1.0}, {DType::q4_0, 45, 2.0}, {DType::q4_1, 50, 1.5}, {DType::q5_k, 55, 0.5}}};
  EXPECT_THAT(*choose_storage(tensors, 54), ElementsAre(0));
  EXPECT_THAT(*choose_storage(tensors, 55), ElementsAre(3));
}

TEST(ChooseStorage, HasNoAnswerBelowTheSmallest) {
  const std::vector<std::vector<StorageOption>> tensors{options(10, 3, 2, 1)};
  EXPECT_FALSE(choose_storage(tensors, 19).has_value());
  EXPECT_TRUE(choose_storage(tensors, 20).has_value());
}

TEST(ChooseStorage, IsNearTheBestOfAllChoices) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> number(1, 20);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<std::vector<StorageOption>> tensors;
    std::uint64_t smallest = 0;
    double largest_step = 0;
    for (int t = 0; t < 5; ++t) {
      const auto size = static_cast<std::uint64_t>(number(random));
      const double unit = number(random);
      tensors.push_back(options(size, 16 * unit, 4 * unit, unit));
      smallest += 2 * size;
      largest_step = std::max(largest_step, 12 * unit);
    }
    const std::uint64_t budget = smallest + static_cast<std::uint64_t>(2 * number(random));
    double best = 1e9;
    for (int all = 0; all < 243; ++all) {
      std::uint64_t bytes = 0;
      double error = 0;
      for (int t = 0, rest = all; t < 5; ++t, rest /= 3) {
        bytes += tensors[static_cast<std::size_t>(t)][static_cast<std::size_t>(rest % 3)].bytes;
        error += tensors[static_cast<std::size_t>(t)][static_cast<std::size_t>(rest % 3)].error;
      }
      if (bytes <= budget) best = std::min(best, error);
    }
    const auto chosen = choose_storage(tensors, budget);
    ASSERT_TRUE(chosen.has_value());
    std::uint64_t bytes = 0;
    double error = 0;
    for (std::size_t t = 0; t < 5; ++t) {
      bytes += tensors[t][(*chosen)[t]].bytes;
      error += tensors[t][(*chosen)[t]].error;
    }
    EXPECT_LE(bytes, budget);
    EXPECT_LE(error, best + largest_step);
  }
}

}  // namespace
}  // namespace fettle::kit
