// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fettle::host {

/// The text of a pipeline file (or of a --set argument), kept so that a message can show the line in question.
struct SourceText {
  std::string name;  ///< as the user wrote it: "pipeline.yaml", "--set vars.keep=0.5"
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
  SourceRange where;
  std::string message;
  std::vector<std::string> notes;                            ///< "note: ..." lines
  std::vector<std::pair<SourceRange, std::string>> related;  ///< other places, shown with their own caret
};

/// Findings are collected, so that all of them are reported at once, in order of place.
class Diagnostics {
 public:
  void error(SourceRange where, std::string message, std::vector<std::string> notes = {});
  void warning(SourceRange where, std::string message, std::vector<std::string> notes = {});
  void add(Diagnostic diagnostic) { all_.push_back(std::move(diagnostic)); }
  bool has_errors() const;
  const std::vector<Diagnostic>& all() const { return all_; }
  /// Every finding with its line and caret, sorted by place; `color` for terminals.
  std::string text(bool color = false) const;

 private:
  std::vector<Diagnostic> all_;
};

/// The candidate nearest to `word` by edit distance, or "" if none is near: for "did you mean".
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace fettle::host
