// SPDX-License-Identifier: Apache-2.0
// Documents show files of this project word for word: a line "<!-- file: PATH -->" stands before a fenced block that
// must equal that file.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

std::string slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Documents, ShowFilesAsTheyAre) {
  const fs::path root = FETTLE_TEST_SOURCE_DIR;
  std::vector<fs::path> pages{root / "README.md"};
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs"))
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  const std::string mark = "<!-- file: ";
  for (const fs::path& page : pages) {
    const std::string text = slurp(page);
    for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1)) {
      const std::string name = text.substr(at + mark.size(), text.find(" -->", at) - at - mark.size());
      const std::size_t begin = text.find('\n', text.find("```", at)) + 1;
      const std::string shown = text.substr(begin, text.find("\n```", begin) + 1 - begin);
      EXPECT_EQ(shown, slurp(root / name)) << page << " shows " << name;
    }
  }
}

/// The text without its fenced blocks, where brackets and parentheses are code.
std::string prose_of(const std::string& text) {
  std::string prose;
  bool fenced = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    const bool fence = text.compare(at, 3, "```") == 0;
    if (!fenced && !fence) prose.append(text, at, end - at);
    fenced ^= fence;
    at = end;
  }
  return prose;
}

TEST(Documents, LinkToFilesThatExist) {
  const fs::path root = FETTLE_TEST_SOURCE_DIR;
  std::vector<fs::path> pages{root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md"};
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs"))
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  for (const fs::path& page : pages) {
    const std::string text = prose_of(slurp(page));
    for (std::size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 1)) {
      std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
      if (target.starts_with("http") || target.starts_with("#")) continue;
      target = target.substr(0, target.find('#'));
      EXPECT_TRUE(fs::exists(page.parent_path() / target)) << page << " links to " << target;
    }
  }
}

}  // namespace
