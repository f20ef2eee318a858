// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/targets.h"

#include <gtest/gtest.h>

#include <string>

namespace fettle::kit {
namespace {

struct GlobCase {
  const char* pattern;
  const char* name;
  bool matches;
};

TEST(GlobMatch, FollowsTheTable) {
  for (const GlobCase& c :
       {GlobCase{"*", "", true}, GlobCase{"", "", true}, GlobCase{"", "a", false}, GlobCase{"a*c", "abbc", true},
        GlobCase{"a*c", "abcd", false}, GlobCase{"*.q_proj.*", "l.q_proj.weight", true},
        GlobCase{"l.?.w", "l.3.w", true}, GlobCase{"l.?.w", "l.33.w", false}, GlobCase{"*ab*ab", "abxab", true},
        GlobCase{"*ab*ab", "abxa", false}, GlobCase{"a**b", "ab", true}})
    EXPECT_EQ(glob_match(c.pattern, c.name), c.matches) << c.pattern << " on " << c.name;
}

TEST(GlobMatch, IsNotExponentialInTheStars) {
  const std::string pattern = "*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", name(100'000, 'a');
  EXPECT_FALSE(glob_match(pattern, name));
}

TEST(FirstMatch, TakesTheEarliestPattern) {
  EXPECT_EQ(first_match({"x", "*.w", "*"}, "a.w"), 1);
  EXPECT_EQ(first_match({"x"}, "a.w"), -1);
}

}  // namespace
}  // namespace fettle::kit
