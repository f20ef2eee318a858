// SPDX-License-Identifier: Apache-2.0
#include "host/report/table.h"

#include <algorithm>

namespace fettle::host {

std::size_t display_width(std::string_view utf8) {
  return static_cast<std::size_t>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string shortened(std::string_view utf8, std::size_t width) {
  if (display_width(utf8) <= width) return std::string(utf8);
  const std::string_view dots = std::string_view("...").substr(0, std::min<std::size_t>(3, width));
  std::size_t keep = width - dots.size(), at = 0;
  while (at < utf8.size()) {
    const bool starts = (static_cast<unsigned char>(utf8[at]) & 0xC0) != 0x80;
    if (starts && keep-- == 0) break;
    ++at;
  }
  return std::string(utf8.substr(0, at)) + std::string(dots);
}

Table::Table(std::vector<std::string> columns) : columns_(std::move(columns)) {
  for (std::string& name : columns_) {
    right_.push_back(!name.empty() && name.back() == '>');
    if (right_.back()) name.pop_back();
  }
}

void Table::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells)
    for (char& c : cell)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = c == '\n' || c == '\t' ? ' ' : '?';
  rows_.push_back(std::move(cells));
}

std::string Table::text(std::size_t indent, std::size_t width) const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    widths.push_back(display_width(columns_[c]));
    for (const auto& row : rows_) widths[c] = std::max(widths[c], display_width(row[c]));
  }
  std::string out;
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text(indent, ' ');
    std::size_t used = indent;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const bool last = c + 1 == cells.size();
      std::string cell = cells[c];
      if (last && !right_[c] && width > used + 8) cell = shortened(cell, width - used);
      const std::string pad(widths[c] - std::min(widths[c], display_width(cell)), ' ');
      text += right_[c] ? pad + cell : cell + (last ? "" : pad);
      if (!last) text += "  ";
      used += widths[c] + 2;
    }
    while (!text.empty() && text.back() == ' ') text.pop_back();
    out += text + "\n";
  };
  line(columns_);
  std::vector<std::string> rule;
  for (std::size_t c = 0; c < widths.size(); ++c) {
    const bool open_ended =
        c + 1 == widths.size() && !right_[c];  // its rows may be long: a rule under the name is enough
    rule.emplace_back(open_ended ? display_width(columns_[c]) : widths[c], '-');
  }
  line(rule);
  for (const auto& row : rows_) line(row);
  return out;
}

std::string Table::markdown() const {
  std::string out = "|";
  for (const std::string& name : columns_) out += " " + name + " |";
  out += "\n|";
  for (const bool right : right_) out += right ? "---:|" : "---|";
  out += "\n";
  for (const auto& row : rows_) {
    out += "|";
    for (const std::string& cell : row) {
      std::string escaped;
      for (const char c : cell) escaped += c == '|' ? std::string("\\|") : std::string(1, c);
      out += " " + escaped + " |";
    }
    out += "\n";
  }
  return out;
}

}  // namespace fettle::host
