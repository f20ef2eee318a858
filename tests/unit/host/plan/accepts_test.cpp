// SPDX-License-Identifier: Apache-2.0
#include "host/plan/accepts.h"

#include <gtest/gtest.h>

namespace fettle::host {
namespace {

TEST(Accepts, ReadsTermsAlternativesAndPorts) {
  const auto terms = parse_accepts("layout=hf; weights = f32|gguf.* ;tokenizer=@model;odd");
  ASSERT_EQ(terms.size(), 3u);
  EXPECT_EQ(terms[0].attribute, "layout");
  EXPECT_EQ(terms[1].values, (std::vector<std::string>{"f32", "gguf.*"}));
  EXPECT_EQ(terms[2].port, "model");
}

TEST(Accepts, StarsMatchAnyText) {
  EXPECT_TRUE(matches("gguf.*", "gguf.Q4_K_M"));
  EXPECT_TRUE(matches("*", ""));
  EXPECT_TRUE(matches("a*b*c", "axxbxbc"));
  EXPECT_FALSE(matches("a*b*c", "axxbxb"));
  EXPECT_FALSE(matches("f32", "f322"));
  EXPECT_FALSE(matches("f32", "f3"));
}

}  // namespace
}  // namespace fettle::host
