// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace fettle::host {

/// The text of a pipeline file (or of a --set argument), kept so that a message can show the line in question.
struct SourceText {
  std::string name;  ///< as the user wrote it: "pipeline.yaml", or "--set"
  std::string text;
};

/// A stretch of one line of a source. Line and column count from 1, columns in Unicode characters; line 0: no place.
struct SourceRange {
  std::shared_ptr<const SourceText> source;
  int line = 0;
  int column = 0;
  int length = 1;
};

/// One finding about a pipeline. Printed as
///   pipeline.yaml:14:17: error: <message>
///     14 |     group_size: 100
///        |                 ^~~
///   note: <note>
struct Diagnostic {
  enum class Severity { error, warning } severity = Severity::error;
  /// What kind of error: each has its own exit code (4, 12, 5).
  enum class Category { invalid, input_missing, does_not_fit };
  SourceRange where;
  std::string message;
  std::vector<std::string> notes;                            ///< "note: ..." lines
  std::vector<std::pair<SourceRange, std::string>> related;  ///< other places, shown with their own caret
  Category category = Category::invalid;
};

/// Findings are collected, so that all of them are reported at once, in order of place. The same message at the same
/// place (as instances of a matrix step give it) is kept once.
class Diagnostics {
 public:
  void error(SourceRange where, std::string message, std::vector<std::string> notes = {});
  void warning(SourceRange where, std::string message, std::vector<std::string> notes = {});
  void add(Diagnostic diagnostic);
  bool has_errors() const { return errors_ > 0; }
  /// Of all errors the category that counts: invalid before input_missing before does_not_fit; nothing without errors.
  std::optional<Diagnostic::Category> category() const;
  const std::vector<Diagnostic>& all() const { return all_; }
  /// Findings with their lines and carets, sorted by place, at most 50; `color` for terminals.
  std::string text(bool color = false) const;

 private:
  std::vector<Diagnostic> all_;
  std::unordered_set<std::string> seen_;
  std::size_t errors_ = 0;
};

/// The candidate nearest to `word` by edit distance, or "" if none is near: for "did you mean".
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace fettle::host
