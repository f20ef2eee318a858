// SPDX-License-Identifier: Apache-2.0
#include "unit/host/cli/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iomanip>
#include <sstream>

namespace fettle::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Arguments = std::vector<std::string>;

class EveryVerb : public ::testing::TestWithParam<const char*> {};

TEST_P(EveryVerb, HasHelpWithAnExample) {
  const Folder folder;
  Arguments arguments;
  const std::string line = GetParam();
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t end = std::min(line.find(' ', at), line.size());
    arguments.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  arguments.emplace_back("--help");
  const Outcome outcome = fettle(folder.path(), arguments);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("Example"));
  EXPECT_THAT(outcome.out, HasSubstr("Usage: fettle " + line));
  EXPECT_THAT(outcome.out, HasSubstr("  fettle " + line.substr(0, line.find(' '))));
  EXPECT_EQ(outcome.err, "");
}

INSTANTIATE_TEST_SUITE_P(Cli, EveryVerb,
                         ::testing::Values("run", "plan", "check", "describe", "plugins", "inspect", "graph", "schema",
                                           "generate", "eval", "eval perplexity", "eval compare", "store",
                                           "store summary", "store verify", "store gc", "store path", "worker"),
                         [](const auto& c) {
                           std::string name = c.param;
                           for (char& letter : name)
                             if (letter == ' ') letter = '_';
                           return name;
                         });

/// The examples that only read; those of run, eval and store write to a store, or need one.
class ReadingVerb : public ::testing::TestWithParam<const char*> {};

TEST_P(ReadingVerb, HasExamplesThatWorkFromTheProjectsRoot) {
  const std::string help = fettle(FETTLE_TEST_SOURCE_DIR, {GetParam(), "--help"}).out;
  std::istringstream lines(help.substr(help.find("\nExample")));
  int examples = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("  fettle ") || line.find("--markdown") != std::string::npos) continue;
    Arguments arguments;
    std::istringstream words(line.substr(0, line.find('>')).substr(9));
    for (std::string word; words >> std::quoted(word, '\'');) arguments.push_back(word);
    const Outcome outcome = fettle(FETTLE_TEST_SOURCE_DIR, arguments);
    EXPECT_EQ(outcome.code, 0) << line << "\n" << outcome.err;
    ++examples;
  }
  EXPECT_GE(examples, 1);
}

INSTANTIATE_TEST_SUITE_P(Cli, ReadingVerb,
                         ::testing::Values("plan", "check", "describe", "plugins", "inspect", "graph", "schema",
                                           "generate"));

struct UsageCase {
  const char* name;
  Arguments arguments;
  const char* message;
};

class Usage : public ::testing::TestWithParam<UsageCase> {};

TEST_P(Usage, IsExplained) {
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), GetParam().arguments);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Cli, Usage,
    ::testing::Values(
        UsageCase{"unknown_verb",
                  {"rnu", "x.yaml"},
                  "fettle: unknown verb 'rnu'; did you mean 'run'?\nhint: 'fettle --help' shows what it takes\n"},
        UsageCase{"unknown_option",
                  {"plugins", "--plugin-dirs", "x"},
                  "fettle plugins: unknown option '--plugin-dirs'; did you mean '--plugin-dir'?\n"
                  "hint: 'fettle plugins --help' shows what it takes\n"},
        UsageCase{"unexpected_argument",
                  {"plugins", "more"},
                  "fettle plugins: unexpected argument 'more'\nhint: 'fettle plugins --help' shows what it takes\n"},
        UsageCase{"missing_pipeline",
                  {"run"},
                  "fettle run: pipeline is required\nhint: 'fettle run --help' shows what it takes\n"},
        UsageCase{"store_without_verb",
                  {"store"},
                  "fettle store: a verb is missing\nhint: 'fettle store --help' shows what it takes\n"},
        UsageCase{"store_unknown_verb",
                  {"store", "garbage"},
                  "fettle store: unknown verb 'garbage'\nhint: 'fettle store --help' shows what it takes\n"},
        UsageCase{"memory_without_unit",
                  {"plan", "x.yaml", "--memory", "24"},
                  "fettle plan: --memory: found '24', expected a size with its unit, such as 24GiB\n"
                  "hint: 'fettle plan --help' shows what it takes\n"},
        UsageCase{"jobs_zero",
                  {"run", "x.yaml", "--jobs", "0"},
                  "fettle run: --jobs: found '0', expected a whole number from 1 to 65,536\n"
                  "hint: 'fettle run --help' shows what it takes\n"},
        UsageCase{"color",
                  {"plugins", "--color", "blue"},
                  "fettle plugins: --color: found 'blue', expected auto, always or never\n"
                  "hint: 'fettle plugins --help' shows what it takes\n"},
        UsageCase{"describe_nothing",
                  {"describe"},
                  "fettle describe: name a technique, or write --all\n"
                  "hint: 'fettle describe --help' shows what it takes\n"},
        UsageCase{"describe_unknown",
                  {"describe", "prune.magnitud"},
                  "error: unknown technique 'prune.magnitud'; did you mean 'prune.magnitude'?; 'fettle plugins' lists "
                  "what there is\n"},
        UsageCase{"keep_going_and_fail_fast",
                  {"run", "x.yaml", "--keep-going", "--fail-fast"},
                  "fettle run: --keep-going excludes --fail-fast\nhint: 'fettle run --help' shows what it takes\n"},
        UsageCase{"with_without_value",
                  {"eval", "perplexity", ".", ".", "--with", "length"},
                  "error: --with 'length': expected PARAM=VALUE\n"}),
    [](const auto& c) { return c.param.name; });

TEST(Cli, WithoutAVerbShowsItsHelp) {
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), {});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.out, StartsWith("Fettle shrinks language models"));
}

TEST(Cli, NamesItselfOnceInItsHelp) {
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), {"--help"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("\nUsage: fettle [OPTIONS] [SUBCOMMAND]\n"));
}

TEST(Cli, SaysItsVersion) {
  const Folder folder;
  const Outcome outcome = fettle(folder.path(), {"--version"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "fettle 0.1.0 (plugin interface 0.1)\n");
}

}  // namespace
}  // namespace fettle::test
