// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/targets.h"

namespace fettle::kit {

bool glob_match(std::string_view pattern, std::string_view name) {
  // On a mismatch go back to the last '*' and let it take one character more; earlier stars never need to be revisited.
  std::size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

int first_match(const std::vector<std::string>& patterns, std::string_view name) {
  for (std::size_t i = 0; i < patterns.size(); ++i)
    if (glob_match(patterns[i], name)) return static_cast<int>(i);
  return -1;
}

}  // namespace fettle::kit
