// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/keys.h"

#include "host/pipeline/scalar.h"

#include <fmt/format.h>

#include <algorithm>

namespace fettle::host {

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string near = nearest(word, candidates);
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
}

std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t most = 12;
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) out += (i ? ", " : "") + names[i];
  if (names.size() > most) out += fmt::format(" and {} more", names.size() - most);
  return out;
}

bool check_keys(const Node& map, const std::vector<std::string>& known, const std::string& what,
                Diagnostics& diagnostics) {
  const std::string prefix = what.empty() ? "" : what + ": ";
  if (map.kind != Node::Kind::map) {
    diagnostics.error(map.where, fmt::format("{}expected a map, found {}", prefix, describe(map)),
                      {"keys here: " + listed(known)});
    return false;
  }
  for (const auto& [key, value] : map.entries) {
    if (std::find(known.begin(), known.end(), key.text) != known.end()) continue;
    const std::string hint = did_you_mean(key.text, known);
    diagnostics.error(
        key.where, fmt::format("{}unknown key {}{}", prefix, describe(key), hint),
        hint.empty() ? std::vector<std::string>{"keys here: " + listed(known)} : std::vector<std::string>{});
  }
  return true;
}

bool is_name(std::string_view text) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  if (text.empty() || text.size() > 64 || !letter(text[0])) return false;
  return std::all_of(text.begin(), text.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '-'; });
}

bool check_name(const Node& key, std::string_view what, Diagnostics& diagnostics) {
  if (is_name(key.text)) return true;
  diagnostics.error(key.where, fmt::format("{} is not a name for {}", describe(key), what),
                    {"a name is a letter or '_', then letters, digits, '_' or '-', at most 64 in all"});
  return false;
}

SourceRange inside(const Node& scalar, std::size_t offset, std::size_t length) {
  const auto characters = [](std::string_view text) {
    return static_cast<int>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
  };
  const std::string_view text = scalar.text;
  if (scalar.where.length != characters(text) + (scalar.quoted ? 2 : 0) || offset > text.size()) return scalar.where;
  SourceRange range = scalar.where;
  range.column += characters(text.substr(0, offset)) + (scalar.quoted ? 1 : 0);
  range.length = std::max(1, characters(text.substr(offset, length)));
  return range;
}

}  // namespace fettle::host
