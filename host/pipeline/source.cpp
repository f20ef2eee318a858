// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace fettle::host {

namespace {

constexpr std::size_t most_shown = 50;
constexpr int widest_line = 160;  // characters of a source line that are shown

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

/// Line `number` of the text, as characters; control characters become spaces.
std::vector<std::string> characters_of_line(const std::string& text, int number) {
  std::size_t begin = 0;
  for (int line = 1; line < number; ++line) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) return {};
    begin = end + 1;
  }
  std::size_t end = text.find('\n', begin);
  if (end == std::string::npos) end = text.size();
  if (end > begin && text[end - 1] == '\r') --end;
  std::vector<std::string> characters;
  for (std::size_t i = begin; i < end; ++i) {
    if (continues_character(text[i]) && !characters.empty() && characters.back().size() < 4 &&
        static_cast<unsigned char>(characters.back()[0]) >= 0xC0)
      characters.back() += text[i];
    else
      characters.emplace_back(1, static_cast<unsigned char>(text[i]) < 0x20 || text[i] == 0x7F ? ' ' : text[i]);
  }
  for (std::string& c : characters) {  // what is not UTF-8 shows as U+FFFD
    const auto lead = static_cast<unsigned char>(c[0]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (c.size() != length) c = "\xEF\xBF\xBD";
  }
  return characters;
}

/// "  14 |     group_size: 100\n     |                 ^~~\n"
std::string excerpt(const SourceRange& where, std::string_view caret_color, std::string_view reset) {
  if (!where.source || where.line <= 0) return {};
  std::vector<std::string> line = characters_of_line(where.source->text, where.line);
  int column = std::max(where.column, 1);
  const int width = static_cast<int>(line.size());
  column = std::min(column, width + 1);
  int length = std::clamp(where.length, 1, std::max(1, width + 1 - column));
  std::string shown;
  int first = 1;
  int last = width;
  if (width > widest_line) {
    first = std::max(1, column - widest_line / 2);
    last = std::min(width, first + widest_line - 1);
    if (first > 1) {
      shown = "...";
      column = column - first + 4;
    }
    length = std::min(length, widest_line / 2);
  }
  for (int i = first; i <= last; ++i) shown += line[static_cast<std::size_t>(i - 1)];
  if (last < width) shown += "...";
  const std::string number = std::to_string(where.line);
  return fmt::format("  {} | {}\n  {} | {}{}^{}{}\n", number, shown, std::string(number.size(), ' '),
                     std::string(static_cast<std::size_t>(column - 1), ' '), caret_color,
                     std::string(static_cast<std::size_t>(length - 1), '~'), reset);
}

std::string place(const SourceRange& where) {
  if (!where.source) return {};
  if (where.line <= 0) return where.source->name + ": ";
  return fmt::format("{}:{}:{}: ", where.source->name, where.line, where.column);
}

}  // namespace

void Diagnostics::error(SourceRange where, std::string message, std::vector<std::string> notes) {
  add({Diagnostic::Severity::error, std::move(where), std::move(message), std::move(notes), {}, {}});
}

void Diagnostics::warning(SourceRange where, std::string message, std::vector<std::string> notes) {
  add({Diagnostic::Severity::warning, std::move(where), std::move(message), std::move(notes), {}, {}});
}

void Diagnostics::add(Diagnostic diagnostic) {
  const SourceRange& where = diagnostic.where;
  if (!seen_
           .insert(
               fmt::format("{}:{}:{}:{}", fmt::ptr(where.source.get()), where.line, where.column, diagnostic.message))
           .second)
    return;
  if (diagnostic.severity == Diagnostic::Severity::error) ++errors_;
  all_.push_back(std::move(diagnostic));
}

std::optional<Diagnostic::Category> Diagnostics::category() const {
  std::optional<Diagnostic::Category> first;
  for (const Diagnostic& d : all_)
    if (d.severity == Diagnostic::Severity::error && (!first || d.category < *first)) first = d.category;
  return first;
}

std::string Diagnostics::text(bool color) const {
  const std::string_view bold = color ? "\033[1m" : "", red = color ? "\033[1;31m" : "",
                         yellow = color ? "\033[1;33m" : "", cyan = color ? "\033[1;36m" : "",
                         reset = color ? "\033[0m" : "";
  // Sources in the order in which they first occur, so that the order never depends on addresses.
  std::vector<const SourceText*> sources;
  const auto rank = [&](const Diagnostic& d) {
    return std::find(sources.begin(), sources.end(), d.where.source.get()) - sources.begin();
  };
  for (const Diagnostic& d : all_)
    if (rank(d) == static_cast<std::ptrdiff_t>(sources.size())) sources.push_back(d.where.source.get());
  std::vector<const Diagnostic*> sorted;
  for (const Diagnostic& d : all_) sorted.push_back(&d);
  std::stable_sort(sorted.begin(), sorted.end(), [&](const Diagnostic* a, const Diagnostic* b) {
    return std::make_tuple(rank(*a), a->where.line, a->where.column) <
           std::make_tuple(rank(*b), b->where.line, b->where.column);
  });

  std::string out;
  for (std::size_t i = 0; i < sorted.size() && i < most_shown; ++i) {
    const Diagnostic& d = *sorted[i];
    const bool error = d.severity == Diagnostic::Severity::error;
    out += fmt::format("{}{}{}{}{}: {}{}{}{}\n", bold, place(d.where), reset, error ? red : yellow,
                       error ? "error" : "warning", reset, bold, d.message, reset);
    out += excerpt(d.where, error ? red : yellow, reset);
    for (const auto& [where, message] : d.related) {
      out += fmt::format("{}{}{}{}note: {}{}\n", bold, place(where), reset, cyan, reset, message);
      out += excerpt(where, cyan, reset);
    }
    for (const std::string& note : d.notes) out += fmt::format("{}note: {}{}\n", cyan, reset, note);
  }
  if (sorted.size() > most_shown) out += fmt::format("... and {} more\n", sorted.size() - most_shown);
  return out;
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr std::size_t longest = 64;
  if (word.empty() || word.size() > longest) return {};
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  std::string best;
  std::size_t best_distance = word.size() / 3 + 1;  // words of one or two letters: only another case
  for (const std::string& candidate : candidates) {
    if (candidate.size() > longest || candidate == word) continue;
    // Edits, and swaps of neighbours (optimal string alignment).
    std::vector<std::size_t> before(candidate.size() + 1), previous(candidate.size() + 1),
        current(candidate.size() + 1);
    std::iota(previous.begin(), previous.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      current[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const bool same = lower(word[i - 1]) == lower(candidate[j - 1]);
        current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (same ? 0 : 1)});
        if (i > 1 && j > 1 && lower(word[i - 1]) == lower(candidate[j - 2]) &&
            lower(word[i - 2]) == lower(candidate[j - 1]))
          current[j] = std::min(current[j], before[j - 2] + 1);
      }
      before.swap(previous);
      previous.swap(current);
    }
    if (previous.back() < best_distance) {
      best_distance = previous.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace fettle::host
