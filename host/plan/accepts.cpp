// SPDX-License-Identifier: Apache-2.0
#include "host/plan/accepts.h"

#include <algorithm>

namespace fettle::host {

namespace {

std::string trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t") - begin + 1));
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    if (std::string part = trimmed(text.substr(begin, end - begin)); !part.empty()) parts.push_back(std::move(part));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

std::vector<Constraint> parse_accepts(std::string_view text) {
  std::vector<Constraint> constraints;
  for (const std::string& term : split(text, ';')) {
    const std::size_t equals = term.find('=');
    if (equals == std::string::npos) continue;
    Constraint c;
    c.attribute = trimmed(std::string_view(term).substr(0, equals));
    const std::string value = trimmed(std::string_view(term).substr(equals + 1));
    if (value.starts_with('@'))
      c.port = value.substr(1);
    else
      c.values = split(value, '|');
    constraints.push_back(std::move(c));
  }
  return constraints;
}

bool matches(std::string_view pattern, std::string_view text) {
  // Greedy with one way back: after a '*' that let too little pass, it lets one character more pass.
  std::size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace fettle::host
