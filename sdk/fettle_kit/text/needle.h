// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/text/fields.h"
#include "fettle_kit/text/pattern.h"

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace fettle::kit {

/// What normalizers, pre-tokenizers and decoders look for: a plain string, a regular expression, or a class of
/// characters.
using CharClass = bool (*)(char32_t);
using Needle = std::variant<std::string, Pattern, CharClass>;

/// Reads {"String": "..."}, {"Regex": "..."} or a bare string from member `key`.
Needle read_needle(Fields& fields, const char* key);

/// Finds one needle in texts. One thread.
class NeedleSearch {
 public:
  explicit NeedleSearch(const Needle& needle);

  /// Calls visit(begin, end, is_match) for consecutive ranges that cover the text; visit returns false to stop.
  enum class Outcome { done, stopped, too_hard };
  Outcome visit(std::string_view text, const std::function<bool(std::size_t, std::size_t, bool)>& visit);

 private:
  const Needle* needle_;
  std::optional<PatternSearch> search_;
};

}  // namespace fettle::kit
