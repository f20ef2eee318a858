// SPDX-License-Identifier: Apache-2.0
#include "fettle/result.h"

#include <gtest/gtest.h>

#include <memory>

namespace fettle {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return Status(Code::invalid_argument, "odd", "n");
  return n / 2;
}

Result<int> quarter(int n) {
  FETTLE_ASSIGN(const int h, half(n));
  return half(h);
}

Status check(int n) {
  FETTLE_TRY(quarter(n));
  return {};
}

TEST(Result, HoldsAValue) { EXPECT_EQ(*quarter(8), 2); }

TEST(Result, CarriesTheErrorThroughAssign) {
  const auto r = quarter(6);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().message(), "odd");
  EXPECT_EQ(r.error().where(), "n");
}

TEST(Result, CarriesTheErrorThroughTry) {
  EXPECT_TRUE(check(4).ok());
  EXPECT_EQ(check(3).code(), Code::invalid_argument);
}

TEST(Result, MovesWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> r(std::make_unique<int>(7));
  const std::unique_ptr<int> taken = *std::move(r);
  EXPECT_EQ(*taken, 7);
}

TEST(Status, GainsContextOnTheWayUp) {
  EXPECT_EQ(Status(Code::io, "disk full").with_context("block 7").message(), "block 7: disk full");
}

TEST(Status, SuccessGainsNoContext) { EXPECT_EQ(Status().with_context("block 7").message(), ""); }

}  // namespace
}  // namespace fettle
