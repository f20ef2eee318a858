// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// Characters of a UTF-8 text, as a terminal counts them (wide and combining ones are not told apart).
std::size_t display_width(std::string_view utf8);
/// At most `width` characters; the end of a longer text becomes "...".
std::string shortened(std::string_view utf8, std::size_t width);

/// Aligned columns of plain text under a header. A column whose name ends in '>' is aligned to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> columns);
  /// Missing cells are empty.
  void add(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  const std::vector<std::string>& columns() const { return columns_; }
  bool is_right(std::size_t column) const { return right_[column]; }
  const std::vector<std::vector<std::string>>& rows() const { return rows_; }
  /// Each line indented by `indent` spaces; the last column is cut at `width` columns (0: never).
  std::string text(std::size_t indent = 0, std::size_t width = 0) const;
  /// The same as a Markdown table.
  std::string markdown() const;

 private:
  std::vector<std::string> columns_;
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace fettle::host
