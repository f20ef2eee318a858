// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/text/fields.h"
#include "fettle_kit/text/needle.h"

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace fettle::kit {

/// What a split does with the parts that match (inverted: with those that do not).
enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

struct Split {
  Needle needle;
  Behavior behavior = Behavior::isolated;
  bool invert = false;
};
struct PrefixSpace {};  ///< a space in front of a text that does not start with one
struct Visible {};      ///< bytes become visible characters (byte_level.h)
struct Metaspace {      ///< U+2581 for spaces, and maybe one in front
  enum class Prefix { always, first, never };
  std::string replacement;
  Prefix prefix = Prefix::always;
};
/// One step from text to words, as the pre-tokenizer of a tokenizer.json lists them. Sequences are flattened, and the
/// types that do several things become several steps: ByteLevel is PrefixSpace, Split by gpt2_pattern, Visible.
using PreTokenizer = std::variant<PrefixSpace, Split, Visible, Metaspace>;

/// The pattern that "ByteLevel" with use_regex stands for.
inline constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// `json` may be null: no steps. What is not listed above is refused by name.
std::vector<PreTokenizer> read_pre_tokenizers(const Json& json, const std::string& where, Status& status);
Split split_by(const char* pattern);  ///< of our own constants

/// Cuts texts into words, one at a time, so that a caller may stop early. One thread; borrows the steps.
class WordCutter {
 public:
  /// word(text) returns false to stop.
  WordCutter(const std::vector<PreTokenizer>& steps, std::function<bool(std::string_view)> word);

  /// `at_start`: the text stands at the very beginning of what the user gave. False if stopped or too_hard().
  bool cut(std::string_view text, bool at_start) { return run(0, text, at_start); }
  /// A pattern needs too much backtracking for this text.
  bool too_hard() const { return too_hard_; }

 private:
  bool run(std::size_t step, std::string_view text, bool at_start);
  bool split(const Split& split, std::size_t step, std::string_view text, bool at_start);

  const std::vector<PreTokenizer>* steps_;
  std::vector<std::vector<NeedleSearch>> searches_;  // of each step: one if it is a Split
  std::function<bool(std::string_view)> word_;
  bool too_hard_ = false;
};

}  // namespace fettle::kit
