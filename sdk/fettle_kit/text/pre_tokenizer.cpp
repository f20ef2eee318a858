// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/pre_tokenizer.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/text/byte_level.h"
#include "fettle_kit/text/unicode.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <utility>

namespace fettle::kit {
namespace {

constexpr std::size_t most_steps = 64;

Behavior read_behavior(Fields& fields, const std::string& otherwise) {
  const std::string name = fields.string("behavior", otherwise);
  if (name == "Isolated") return Behavior::isolated;
  if (name == "Removed") return Behavior::removed;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  fields.fail(Code::unsupported, fmt::format("behavior {} is not supported, expected Isolated, Removed, "
                                             "MergedWithPrevious, MergedWithNext or Contiguous",
                                             in_quotes(name)));
  return {};
}

void read_metaspace(std::vector<PreTokenizer>& steps, Fields& fields) {
  Metaspace step;
  step.replacement = fields.string("replacement", "\u2581");
  if (step.replacement.empty() || step.replacement.size() != unicode::length_of(step.replacement[0]))
    return fields.fail(Code::corrupt_data, "'replacement' is not one character");
  // Older files say add_prefix_space, newer ones prepend_scheme.
  const std::string scheme =
      fields.string("prepend_scheme", fields.flag("add_prefix_space", true) ? "always" : "never");
  if (scheme == "always")
    step.prefix = Metaspace::Prefix::always;
  else if (scheme == "first")
    step.prefix = Metaspace::Prefix::first;
  else if (scheme == "never")
    step.prefix = Metaspace::Prefix::never;
  else
    return fields.fail(
        Code::unsupported,
        fmt::format("prepend_scheme {} is not supported, expected always, first or never", in_quotes(scheme)));
  Split split{step.replacement, Behavior::merged_with_next};
  steps.emplace_back(std::move(step));
  if (fields.flag("split", true)) steps.emplace_back(std::move(split));
}

void read_into(std::vector<PreTokenizer>& steps, const Json& json, const std::string& where, Status& status) {
  Fields fields(json, where, status);
  const std::string type = fields.string("type");
  if (!status.ok()) return;
  if (type == "Sequence") {
    std::size_t i = 0;
    for (const Json& item : fields.array("pretokenizers")) {
      read_into(steps, item, fmt::format("{}: pretokenizers[{}]", where, i++), status);
      if (!status.ok()) return;
    }
  } else if (type == "ByteLevel") {
    if (fields.flag("add_prefix_space", true)) steps.emplace_back(PrefixSpace{});
    if (fields.flag("use_regex", true)) steps.emplace_back(split_by(gpt2_pattern));
    steps.emplace_back(Visible{});
  } else if (type == "Split") {
    Needle needle = read_needle(fields, "pattern");
    const Behavior behavior = read_behavior(fields, "?");
    steps.emplace_back(Split{std::move(needle), behavior, fields.flag("invert", false)});
  } else if (type == "Digits") {
    steps.emplace_back(Split{&unicode::is_numeric,
                             fields.flag("individual_digits", false) ? Behavior::isolated : Behavior::contiguous});
  } else if (type == "Whitespace") {
    // \w+|[^\w\s]+ in a dialect where the join controls are word characters.
    Split words = split_by(R"([\w\x{200C}\x{200D}]+|[^\w\s\x{200C}\x{200D}]+)");
    words.behavior = Behavior::removed;
    words.invert = true;
    steps.emplace_back(std::move(words));
  } else if (type == "WhitespaceSplit") {
    steps.emplace_back(Split{&unicode::is_white_space, Behavior::removed});
  } else if (type == "Punctuation") {
    steps.emplace_back(Split{&unicode::is_punctuation, read_behavior(fields, "Isolated")});
  } else if (type == "Metaspace") {
    read_metaspace(steps, fields);
  } else {
    fields.fail(Code::unsupported,
                fmt::format("type {} is not supported, expected Sequence, ByteLevel, Split, Digits, Whitespace, "
                            "WhitespaceSplit, Punctuation or Metaspace",
                            in_quotes(type)));
  }
  if (steps.size() > most_steps) fields.fail(Code::unsupported, fmt::format("more than {} steps", most_steps));
}

}  // namespace

Split split_by(const char* pattern) {
  auto compiled = Pattern::compile(pattern);
  return {*std::move(compiled)};
}

std::vector<PreTokenizer> read_pre_tokenizers(const Json& json, const std::string& where, Status& status) {
  std::vector<PreTokenizer> steps;
  if (!json.is_null()) read_into(steps, json, where, status);
  return steps;
}

WordCutter::WordCutter(const std::vector<PreTokenizer>& steps, std::function<bool(std::string_view)> word)
    : steps_(&steps), searches_(steps.size()), word_(std::move(word)) {
  for (std::size_t i = 0; i < steps.size(); ++i)
    if (const auto* split = std::get_if<Split>(&steps[i])) searches_[i].emplace_back(split->needle);
}

bool WordCutter::run(std::size_t step, std::string_view text, bool at_start) {
  if (text.empty()) return true;
  if (step == steps_->size()) return word_(text);
  const PreTokenizer& what = (*steps_)[step];
  if (const auto* by = std::get_if<Split>(&what)) return split(*by, step, text, at_start);
  std::string changed;
  if (std::holds_alternative<PrefixSpace>(what)) {
    if (text.front() == ' ') return run(step + 1, text, at_start);
    changed.reserve(text.size() + 1);
    changed.append(" ").append(text);
  } else if (std::holds_alternative<Visible>(what)) {
    append_visible(changed, text);
  } else {
    const auto& meta = std::get<Metaspace>(what);
    changed.reserve(text.size() + text.size() / 2);
    for (const char c : text) {
      if (c == ' ')
        changed += meta.replacement;
      else
        changed += c;
    }
    const bool prefix =
        meta.prefix == Metaspace::Prefix::always || (meta.prefix == Metaspace::Prefix::first && at_start);
    if (prefix && changed.compare(0, meta.replacement.size(), meta.replacement) != 0)
      changed.insert(0, meta.replacement);
  }
  return run(step + 1, changed, at_start);
}

bool WordCutter::split(const Split& by, std::size_t step, std::string_view text, bool at_start) {
  const auto emit = [&](std::size_t begin, std::size_t end) {
    return run(step + 1, text.substr(begin, end - begin), at_start && begin == 0);
  };
  // Merging behaviors hold back the last range until they know its neighbour.
  struct Range {
    std::size_t begin, end;
  };
  std::optional<Range> held;
  bool previous = false;  // was the last range a match?
  const auto flush = [&] {
    if (!held) return true;
    const Range r = *held;
    held.reset();
    return emit(r.begin, r.end);
  };
  const auto outcome = searches_[step].front().visit(text, [&](std::size_t begin, std::size_t end, bool is_match) {
    const bool match = is_match != by.invert;
    const bool after_match = std::exchange(previous, match);
    switch (by.behavior) {
      case Behavior::isolated:
        return emit(begin, end);
      case Behavior::removed:
        return match || emit(begin, end);
      case Behavior::contiguous:
        if (held && match == after_match) return held->end = end, true;
        break;
      case Behavior::merged_with_previous:
        if (held && match && !after_match) return held->end = end, true;
        break;
      case Behavior::merged_with_next:
        if (held && !match && after_match) {
          const std::size_t first = held->begin;
          held.reset();
          return emit(first, end);
        }
        if (!match) return flush() && emit(begin, end);
        break;
    }
    if (!flush()) return false;
    held = Range{begin, end};
    return true;
  });
  if (outcome == NeedleSearch::Outcome::too_hard) too_hard_ = true;
  return outcome == NeedleSearch::Outcome::done && flush();
}

}  // namespace fettle::kit
