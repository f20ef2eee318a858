// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/source.h"

#include <gtest/gtest.h>

namespace fettle::host {
namespace {

std::shared_ptr<const SourceText> source(std::string text) {
  return std::make_shared<SourceText>(SourceText{"p.yaml", std::move(text)});
}

TEST(Diagnostics, ShowTheLineAndMarkTheWholeRange) {
  Diagnostics d;
  d.error({source("a: 1\nb: wrong\n"), 2, 4, 5}, "bad value", {"try another"});
  EXPECT_EQ(d.text(), "p.yaml:2:4: error: bad value\n  2 | b: wrong\n    |    ^~~~~\nnote: try another\n");
}

TEST(Diagnostics, AreSortedByPlaceAndKeepEqualOnesOnce) {
  Diagnostics d;
  const auto s = source("a\nb\n");
  d.error({s, 2, 1, 1}, "second");
  d.error({s, 1, 1, 1}, "first");
  d.error({s, 2, 1, 1}, "second");
  EXPECT_EQ(d.text(), "p.yaml:1:1: error: first\n  1 | a\n    | ^\np.yaml:2:1: error: second\n  2 | b\n    | ^\n");
}

TEST(Diagnostics, CountColumnsInCharacters) {
  Diagnostics d;
  d.error({source("größe: ü"), 1, 8, 1}, "bad");
  EXPECT_EQ(d.text(), "p.yaml:1:8: error: bad\n  1 | größe: ü\n    |        ^\n");
}

TEST(Diagnostics, ShowOtherPlacesToo) {
  Diagnostics d;
  const auto s = source("a\nb\n");
  Diagnostic twice;
  twice.where = {s, 2, 1, 1};
  twice.message = "twice";
  twice.related.emplace_back(SourceRange{s, 1, 1, 1}, "first here");
  d.add(twice);
  EXPECT_EQ(d.text(), "p.yaml:2:1: error: twice\n  2 | b\n    | ^\np.yaml:1:1: note: first here\n  1 | a\n    | ^\n");
}

TEST(Diagnostics, CutLongLinesRoundTheCaret) {
  Diagnostics d;
  d.error({source(std::string(1000, 'x')), 1, 500, 1}, "bad");
  const std::string text = d.text();
  EXPECT_LT(text.size(), 450u);
  EXPECT_NE(text.find("| ..."), std::string::npos);
}

TEST(Diagnostics, WithoutAPlaceNameTheSource) {
  Diagnostics d;
  d.error({source(""), 0, 0, 1}, "too large");
  d.error({}, "nothing to do");
  EXPECT_EQ(d.text(), "p.yaml: error: too large\nerror: nothing to do\n");
}

TEST(Diagnostics, StopAfterFifty) {
  Diagnostics d;
  for (int i = 0; i < 60; ++i) d.error({}, "problem " + std::to_string(i));
  EXPECT_TRUE(d.text().ends_with("problem 49\n... and 10 more\n"));
}

TEST(Diagnostics, CategoryIsTheMostBasicOne) {
  Diagnostics d;
  EXPECT_FALSE(d.category());
  Diagnostic fits;
  fits.message.assign(1, 'a');
  fits.category = Diagnostic::Category::does_not_fit;
  d.add(fits);
  EXPECT_EQ(d.category(), Diagnostic::Category::does_not_fit);
  fits.message.assign(1, 'b');
  fits.category = Diagnostic::Category::input_missing;
  d.add(fits);
  EXPECT_EQ(d.category(), Diagnostic::Category::input_missing);
  d.error({}, "c");
  EXPECT_EQ(d.category(), Diagnostic::Category::invalid);
}

TEST(Nearest, FindsTyposAndNothingElse) {
  const std::vector<std::string> names{"sparsity", "pattern", "type", "a"};
  EXPECT_EQ(nearest("sparsty", names), "sparsity");
  EXPECT_EQ(nearest("TYPE", names), "type");
  EXPECT_EQ(nearest("tpye", names), "type");  // neighbours swapped count once
  EXPECT_EQ(nearest("speed", names), "");
  EXPECT_EQ(nearest("b", names), "");
}

}  // namespace
}  // namespace fettle::host
