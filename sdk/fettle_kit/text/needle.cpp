// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/needle.h"

#include "fettle_kit/text/unicode.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <utility>

namespace fettle::kit {

Needle read_needle(Fields& fields, const char* key) {
  const Json& value = fields.at(key);
  std::string text;
  if (value.is_object() && value.size() == 1 && value.contains("Regex")) {
    Fields inner = fields.object(key);
    auto pattern = Pattern::compile(inner.string("Regex"));
    if (pattern.ok()) return *std::move(pattern);
    inner.fail(pattern.error().code(), pattern.error().message());
  } else if (value.is_object() && value.size() == 1 && value.contains("String")) {
    text = fields.object(key).string("String");
    if (text.empty()) fields.fail(Code::unsupported, fmt::format("'{}' is an empty string", key));
  } else {
    text = fields.string(key);
    if (text.empty()) fields.fail(Code::unsupported, fmt::format("'{}' is an empty string", key));
  }
  return text.empty() ? "?" : text;  // after a failure anything will do
}

NeedleSearch::NeedleSearch(const Needle& needle) : needle_(&needle) {
  if (const auto* pattern = std::get_if<Pattern>(&needle)) search_.emplace(*pattern);
}

NeedleSearch::Outcome NeedleSearch::visit(std::string_view text,
                                          const std::function<bool(std::size_t, std::size_t, bool)>& visit) {
  std::size_t done = 0;  // everything before it has been visited
  const auto match = [&](std::size_t begin, std::size_t end) {
    if (begin > done && !visit(done, begin, false)) return false;
    done = end;
    return visit(begin, end, true);
  };
  if (const auto* string = std::get_if<std::string>(needle_)) {
    for (std::size_t at = 0; (at = text.find(*string, at)) != text.npos; at = done)
      if (!match(at, at + string->size())) return Outcome::stopped;
  } else if (const auto* is_member = std::get_if<CharClass>(needle_)) {
    for (std::size_t i = 0, next = 0; i < text.size(); i = next) {
      next = i + unicode::length_of(text[i]);
      if ((*is_member)(unicode::code_point(text, i)) && !match(i, next)) return Outcome::stopped;
    }
  } else {
    // An empty match right after a match does not count, and the search goes on one character later.
    std::size_t from = 0, begin = 0, end = 0;
    std::optional<std::size_t> last_end;
    while (from <= text.size()) {
      const auto outcome = search_->find(text, from, &begin, &end);
      if (outcome == PatternSearch::Outcome::too_hard) return Outcome::too_hard;
      if (outcome == PatternSearch::Outcome::none) break;
      const bool repeated = begin == end && last_end == end;
      from = begin < end ? end : end < text.size() ? end + unicode::length_of(text[end]) : end + 1;
      if (repeated) continue;
      last_end = end;
      if (!match(begin, end)) return Outcome::stopped;
    }
  }
  if (done < text.size() && !visit(done, text.size(), false)) return Outcome::stopped;
  return Outcome::done;
}

}  // namespace fettle::kit
