// SPDX-License-Identifier: Apache-2.0
#include "host/pipeline/node.h"

#include <gtest/gtest.h>

namespace fettle::host {
namespace {

Node parse(const std::string& text, Diagnostics& diagnostics) {
  return parse_yaml(std::make_shared<SourceText>(SourceText{"p.yaml", text}), diagnostics);
}
Node parse(const std::string& text) {
  Diagnostics diagnostics;
  Node node = parse(text, diagnostics);
  EXPECT_FALSE(diagnostics.has_errors()) << diagnostics.text();
  return node;
}
void expect_place(const Node& node, int line, int column, int length) {
  EXPECT_EQ(node.where.line, line);
  EXPECT_EQ(node.where.column, column);
  EXPECT_EQ(node.where.length, length);
}

TEST(Yaml, KeepsOrderQuotesAndPlaces) {
  const Node root = parse("b: \"x y\"\na: [1, ü, 'it''s']\n");
  ASSERT_EQ(root.entries.size(), 2u);
  EXPECT_EQ(root.entries[0].key.text, "b");
  const Node& quoted = root.entries[0].value;
  EXPECT_TRUE(quoted.quoted);
  EXPECT_EQ(quoted.text, "x y");
  expect_place(quoted, 1, 4, 5);
  const Node& list = root.entries[1].value;
  expect_place(list, 2, 4, 1);
  expect_place(list.items[1], 2, 8, 1);
  EXPECT_EQ(list.items[2].text, "it's");
  expect_place(list.items[2], 2, 11, 7);
}

TEST(Yaml, AnAbsentValueHasThePlaceOfItsKey) {
  const Node root = parse("first:\nsecond: ~\n");
  EXPECT_EQ(root.find("first")->kind, Node::Kind::null);
  expect_place(*root.find("first"), 1, 1, 5);
  expect_place(*root.find("second"), 2, 9, 1);
}

TEST(Yaml, BlockTextIsQuoted) {
  const Node root = parse("a: |\n  one\n  two\n");
  EXPECT_EQ(root.find("a")->text, "one\ntwo\n");
  EXPECT_TRUE(root.find("a")->quoted);
}

TEST(Yaml, AliasesAreCopies) {
  const Node root = parse("a: &x {k: v}\nb: *x\n");
  EXPECT_EQ(root.find("b")->find("k")->text, "v");
}

TEST(Yaml, AnchorsDoNotMoveAPlace) { expect_place(*parse("a: &x value\n").find("a"), 1, 7, 5); }

TEST(Yaml, AByteOrderMarkIsNotText) {
  expect_place(*parse("\xEF\xBB\xBF"
                      "a: b\n")
                    .find("a"),
               1, 4, 1);
}

TEST(Yaml, AcceptsTheVersionDirectiveAndOneDocumentMark) {
  EXPECT_EQ(parse("%YAML 1.2\n---\na: b\n...\n").find("a")->text, "b");
}

TEST(Yaml, WindowsLineEndsAreLineEnds) {
  const Node root = parse("a: b\r\nc: d\r\n");
  EXPECT_EQ(root.find("a")->text, "b");
  expect_place(*root.find("c"), 2, 4, 1);
}

TEST(Yaml, ReportsEveryDuplicate) {
  Diagnostics diagnostics;
  parse("a: 1\na: 2\nb: {c: 1, c: 2}\n", diagnostics);
  EXPECT_EQ(diagnostics.all().size(), 2u);
}

TEST(Yaml, RefusesMoreBytesThanTheLimit) {
  Diagnostics diagnostics;
  YamlLimits limits;
  limits.max_bytes = 3;
  parse_yaml(std::make_shared<SourceText>(SourceText{"p.yaml", "a: b"}), diagnostics, limits);
  EXPECT_EQ(diagnostics.text(), "p.yaml: error: too large: 4 bytes, at most 3 are read\n");
}

TEST(Yaml, SurvivesEveryPrefixOfAFile) {
  const std::string text =
      "%YAML 1.2\n--- # c\na: &x [1, \"t\\u00e4\\n\", 'q', {b: *y, ? c : d}]\nk: |\n  t\nm: !!str >-\n  f\n<<: "
      "*x\n...\n";
  for (std::size_t n = 0; n <= text.size(); ++n) {
    Diagnostics diagnostics;
    parse(text.substr(0, n), diagnostics);
  }
}

}  // namespace
}  // namespace fettle::host
