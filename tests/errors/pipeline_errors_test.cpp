// SPDX-License-Identifier: Apache-2.0
// Every wrong pipeline in pipeline/NAME.yaml is loaded and planned, and what is said of it is compared with NAME.txt: a
// line "exit N", then the messages. A first line "#! --set vars.x=1 --profile p" passes those. FETTLE_UPDATE_GOLDENS=1
// writes the .txt files instead: read them before you commit them.
#include "fettle_kit/text/token_set.h"

#include "host/plan/plan.h"
#include "unit/host/plan/test_techniques.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

const fs::path cases = fs::path(FETTLE_TEST_SOURCE_DIR) / "tests/errors/pipeline";

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

/// A folder with what the cases refer to, in which the test stands.
const fs::path& workplace() {
  static const fs::path folder = [] {
    std::string name = (fs::temp_directory_path() / "fettle-errors-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    fs::current_path(name);
    std::ofstream("text.txt") << "some text\n";
    std::ofstream("words.txt") << "words\n";
    fs::create_directory_symlink(fs::path(FETTLE_TEST_SOURCE_DIR) / "pipelines/data/prose-3m", "model");
    fs::create_directory("tokens");
    const kit::TokenSet tokens({1, 2, 3, 4}, 2, "sha256:" + std::string(64, '9'), false);
    if (!tokens.save("tokens").ok()) std::abort();
    fs::create_directory("broken");
    std::ofstream("broken/config.json") << "{\"model_type\": ";
    return fs::path(name);
  }();
  return folder;
}

std::string findings(const std::string& yaml) {
  workplace();
  std::ofstream("pipeline.yaml", std::ios::binary) << yaml;
  LoadOptions options;
  if (yaml.starts_with("#!")) {
    std::istringstream words(yaml.substr(2, yaml.find('\n') - 2));
    for (std::string option, value; words >> option >> value;)
      (option == "--set" ? options.sets : options.profiles).push_back(value);
  }
  Diagnostics diagnostics;
  const auto pipeline = std::make_shared<const Pipeline>(load_pipeline("pipeline.yaml", options, diagnostics));
  make_plan(pipeline, test::catalogue(), nullptr, diagnostics, {2, std::uint64_t{4} << 30});
  const auto category = diagnostics.category();
  const int exit = !category                                          ? 0
                   : *category == Diagnostic::Category::invalid       ? 4
                   : *category == Diagnostic::Category::input_missing ? 12
                                                                      : 5;
  return "exit " + std::to_string(exit) + "\n" + replaced(diagnostics.text(), workplace().string(), "<folder>");
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& entry : fs::directory_iterator(cases))
    if (entry.path().extension() == ".yaml") all.push_back(entry.path().stem().string());
  std::sort(all.begin(), all.end());
  return all;
}

class PipelineErrors : public ::testing::TestWithParam<std::string> {};

TEST_P(PipelineErrors, SayExactly) {
  const std::string said = findings(read(cases / (GetParam() + ".yaml")));
  if (std::getenv("FETTLE_UPDATE_GOLDENS") != nullptr)
    std::ofstream(cases / (GetParam() + ".txt"), std::ios::binary) << said;
  EXPECT_EQ(said, read(cases / (GetParam() + ".txt")));
}

INSTANTIATE_TEST_SUITE_P(Files, PipelineErrors, ::testing::ValuesIn(names()),
                         [](const auto& test) { return test.param; });

TEST(PipelineFile, Of100MegabytesIsRefusedBySize) {
  workplace();
  std::ofstream("pipeline.yaml") << "";
  fs::resize_file("pipeline.yaml", 100u << 20);
  Diagnostics diagnostics;
  load_pipeline("pipeline.yaml", {}, diagnostics);
  EXPECT_EQ(diagnostics.text(),
            "pipeline.yaml: error: too large for a pipeline: 104,857,600 bytes, at most 8,388,608 are read\n");
}

TEST(PipelineFile, NestedTenThousandDeepIsRefusedAtItsFirstLevelTooMany) {
  const auto first_line = [](const std::string& text) { return text.substr(0, text.find('\n', text.find('\n') + 1)); };
  EXPECT_EQ(first_line(findings("a: " + std::string(10'000, '[') + std::string(10'000, ']') + "\n")),
            "exit 4\npipeline.yaml:1:67: error: nested more than 64 levels deep");
  std::string block;
  for (int i = 0; i < 10'000; ++i) block += "- ";
  EXPECT_EQ(first_line(findings(block + "a\n")), "exit 4\npipeline.yaml:1:129: error: nested more than 64 levels deep");
}

TEST(PipelineFile, ThatDoesNotExistIsAMissingInput) {
  workplace();
  Diagnostics diagnostics;
  load_pipeline("nowhere.yaml", {}, diagnostics);
  EXPECT_EQ(diagnostics.text(), "nowhere.yaml: error: no such file\n");
  EXPECT_EQ(diagnostics.category(), Diagnostic::Category::input_missing);
}

}  // namespace
}  // namespace fettle::host
