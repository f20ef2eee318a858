// SPDX-License-Identifier: Apache-2.0
#include "host/report/table.h"

#include <gtest/gtest.h>

namespace fettle::host {
namespace {

TEST(Table, AlignsItsColumns) {
  Table table({"step", "size>", "note"});
  table.add({"a", "10 B", "x"});
  table.add({"longer", "1.50 KiB", "yy"});
  EXPECT_EQ(table.text(),
            "step        size  note\n"
            "------  --------  ----\n"
            "a           10 B  x\n"
            "longer  1.50 KiB  yy\n");
}

TEST(Table, CountsCharactersNotBytes) {
  Table table({"value>"});
  table.add({"1 \u00b1 2"});
  table.add({"100 \u00b1 2"});
  EXPECT_EQ(table.text(), "  value\n-------\n  1 \u00b1 2\n100 \u00b1 2\n");
}

TEST(Table, CutsTheLastColumnAtTheWidth) {
  Table table({"a", "text"});
  table.add({"1", "a text that is much too long"});
  EXPECT_EQ(table.text(0, 20), "a  text\n-  ----\n1  a text that is...\n");
}

TEST(Table, CannotSteerATerminal) {
  Table table({"name"});
  table.add({"evil\x1b[2J\nname"});
  EXPECT_EQ(table.text(), "name\n----\nevil?[2J name\n");
}

TEST(Table, EscapesMarkdown) {
  Table table({"accepts", "bytes>"});
  table.add({"f32|f16", "2"});
  EXPECT_EQ(table.markdown(), "| accepts | bytes |\n|---|---:|\n| f32\\|f16 | 2 |\n");
}

TEST(Shortened, KeepsWholeCharacters) {
  EXPECT_EQ(shortened("\u00e9\u00e9\u00e9\u00e9\u00e9", 4), "\u00e9...");
  EXPECT_EQ(shortened("abc", 3), "abc");
  EXPECT_EQ(shortened("abcd", 2), "..");
}

}  // namespace
}  // namespace fettle::host
