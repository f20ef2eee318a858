// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace fettle::kit {

/// A regular expression of a tokenizer.json, in the dialect of its usual reader (Oniguruma, Ruby syntax) as far as
/// tokenizers use it: classes, Unicode properties, groups, look-around, greedy, lazy and possessive repeats. \s and \w
/// have their Unicode meaning. What the two dialects read differently is refused. Immutable. [any thread]
class Pattern {
 public:
  static Result<Pattern> compile(const std::string& source);
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  ~Pattern();
  const std::string& source() const { return source_; }

 private:
  friend class PatternSearch;
  struct Compiled;
  Pattern(std::string source, std::unique_ptr<Compiled> compiled);
  std::string source_;
  std::unique_ptr<Compiled> compiled_;
};

/// Finds the matches of a pattern in a text, left to right, without overlap. One thread; reusable for many texts.
class PatternSearch {
 public:
  explicit PatternSearch(const Pattern& pattern);
  PatternSearch(PatternSearch&&) noexcept;
  ~PatternSearch();

  enum class Outcome { found, none, too_hard };
  /// The first match in text[from..], which must be valid UTF-8 with `from` at a code point. too_hard: the pattern
  /// needs more backtracking than any sensible tokenizer.
  Outcome find(std::string_view text, std::size_t from, std::size_t* begin, std::size_t* end);

 private:
  struct State;
  const Pattern* pattern_;
  std::unique_ptr<State> state_;
};

}  // namespace fettle::kit
