// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/normalizer.h"

#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

namespace fettle::kit {
namespace {

constexpr std::size_t most_steps = 64, longest_prefix = 64, most_growth = 256;

void read_into(std::vector<Normalizer>& steps, const Json& json, const std::string& where, std::size_t& growth,
               Status& status) {
  Fields fields(json, where, status);
  const std::string type = fields.string("type");
  if (!status.ok()) return;
  if (type == "Sequence") {
    std::size_t i = 0;
    for (const Json& item : fields.array("normalizers")) {
      read_into(steps, item, fmt::format("{}: normalizers[{}]", where, i++), growth, status);
      if (!status.ok()) return;
    }
  } else if (type == "Prepend") {
    steps.emplace_back(Prepend{fields.string("prepend")});
    if (std::get<Prepend>(steps.back()).text.size() > longest_prefix)
      fields.fail(Code::unsupported, fmt::format("'prepend' is longer than {} bytes", longest_prefix));
  } else if (type == "Replace") {
    steps.emplace_back(read_replace(fields, growth));
  } else if (type == "NFC") {
    steps.emplace_back(unicode::Form::nfc);
  } else if (type == "NFD") {
    steps.emplace_back(unicode::Form::nfd);
  } else if (type == "NFKC") {
    steps.emplace_back(unicode::Form::nfkc);
  } else if (type == "NFKD") {
    steps.emplace_back(unicode::Form::nfkd);
  } else if (type == "Lowercase") {
    steps.emplace_back(Lowercase{});
  } else if (type == "Strip") {
    steps.emplace_back(StripSpace{fields.flag("strip_left", true), fields.flag("strip_right", true)});
  } else if (type == "StripAccents") {
    steps.emplace_back(StripAccents{});
  } else {
    fields.fail(Code::unsupported, fmt::format("type {} is not supported, expected Sequence, Prepend, Replace, NFC, "
                                               "NFD, NFKC, NFKD, Lowercase, Strip or StripAccents",
                                               in_quotes(type)));
  }
  if (steps.size() > most_steps) fields.fail(Code::unsupported, fmt::format("more than {} steps", most_steps));
}

void strip(const StripSpace& sides, std::string& text) {
  std::size_t begin = 0, end = text.size();
  while (sides.left && begin < end && unicode::is_white_space(unicode::code_point(text, begin)))
    begin += unicode::length_of(text[begin]);
  while (sides.right && end > begin &&
         unicode::is_white_space(unicode::code_point(text, unicode::start_before(text, end))))
    end = unicode::start_before(text, end);
  text = text.substr(begin, end - begin);
}

struct Apply {
  std::string& text;
  bool operator()(const Prepend& s) const {
    if (!text.empty()) text.insert(0, s.text);
    return true;
  }
  bool operator()(const Replace& s) const { return replace_all(s, text); }
  bool operator()(unicode::Form form) const { return text = unicode::normalized(text, form), true; }
  bool operator()(Lowercase) const { return text = unicode::lowercase(text), true; }
  bool operator()(const StripSpace& s) const { return strip(s, text), true; }
  bool operator()(StripAccents) const { return text = unicode::without_marks(text), true; }
};

}  // namespace

std::vector<Normalizer> read_normalizers(const Json& json, const std::string& where, Status& status) {
  std::vector<Normalizer> steps;
  std::size_t growth = 1;
  if (!json.is_null()) read_into(steps, json, where, growth, status);
  return steps;
}

Replace read_replace(Fields& fields, std::size_t& growth) {
  Needle needle = read_needle(fields, "pattern");
  std::string content = fields.string("content");
  // A pattern may match nothing, in front of every byte; a string is at least as long as itself.
  const auto* string = std::get_if<std::string>(&needle);
  const std::size_t factor = string ? (content.size() + string->size() - 1) / string->size() : content.size() + 1;
  growth *= std::max<std::size_t>(1, std::min(factor, most_growth + 1));
  if (growth > most_growth) {
    fields.fail(Code::unsupported,
                fmt::format("together the replacements could make a text more than {} times longer", most_growth));
    growth = 1;
  }
  return {std::move(needle), std::move(content)};
}

bool replace_all(const Replace& step, std::string& text) {
  std::string out;
  out.reserve(text.size());
  const auto outcome = NeedleSearch(step.needle).visit(text, [&](std::size_t begin, std::size_t end, bool is_match) {
    if (is_match)
      out += step.content;
    else
      out.append(text, begin, end - begin);
    return true;
  });
  text = std::move(out);
  return outcome == NeedleSearch::Outcome::done;
}

bool normalize(const std::vector<Normalizer>& steps, std::string& text) {
  return std::all_of(steps.begin(), steps.end(), [&](const Normalizer& step) { return std::visit(Apply{text}, step); });
}

}  // namespace fettle::kit
