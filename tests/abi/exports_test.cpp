// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

/// What a command writes to stdout.
std::string output_of(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), &::pclose);
  std::string text;
  std::array<char, 4096> buffer;
  while (pipe && std::fgets(buffer.data(), buffer.size(), pipe.get())) text += buffer.data();
  return text;
}

std::vector<std::string> our_plugins() {
  std::vector<std::string> paths;
  const std::string build = FETTLE_TEST_BINARY_DIR;
  for (const std::string& folder : {build + "/plugins", build + "/tests/plugins-c11"})
    if (fs::is_directory(folder))
      for (const auto& entry : fs::directory_iterator(folder))
        if (entry.path().extension() == ".so") paths.push_back(entry.path());
  return paths;
}

TEST(OurPlugins, ExportTheEntryFunctionAndNothingElse) {
  for (const std::string& path : our_plugins()) {
    std::istringstream lines(output_of("nm -D --defined-only '" + path + "'"));
    std::vector<std::string> symbols;
    for (std::string line; std::getline(lines, line);) symbols.push_back(line.substr(line.rfind(' ') + 1));
    EXPECT_THAT(symbols, ::testing::ElementsAre("fettle_plugin_entry")) << path;
  }
}

TEST(OurPlugins, AreNeverUnloadedAndBindAtOnce) {
  for (const std::string& path : our_plugins()) {
    const std::string dynamic = output_of("readelf -dW '" + path + "'");
    EXPECT_THAT(dynamic, ::testing::HasSubstr("NODELETE")) << path;
    EXPECT_THAT(dynamic, ::testing::HasSubstr("NOW")) << path;
  }
}

}  // namespace
