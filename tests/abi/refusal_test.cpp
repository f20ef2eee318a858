// SPDX-License-Identifier: Apache-2.0
#include "host/plugin/registry.h"
#include "plugins/harness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

const std::string plugins_of = std::string(FETTLE_TEST_BINARY_DIR) + "/tests/plugins-";

Registry discover(const std::string& folder) { return Registry::discover({{}, folder}); }

std::string refusal_of(const Registry& registry, const std::string& file) {
  for (const Refusal& r : registry.refusals())
    if (fs::path(r.path).filename() == file) return r.reason;
  return "not refused";
}

struct RefusalCase {
  const char* plugin;
  const char* reason;
};

class BadPlugin : public ::testing::TestWithParam<RefusalCase> {};

TEST_P(BadPlugin, IsRefusedWithItsSentence) {
  static const Registry registry = discover(plugins_of + "bad");
  EXPECT_EQ(refusal_of(registry, std::string(GetParam().plugin) + ".so"), GetParam().reason);
}

INSTANTIATE_TEST_SUITE_P(
    Handshake, BadPlugin,
    ::testing::Values(
        RefusalCase{
            "no_entry",
            "exports no 'fettle_plugin_entry', so it is no fettle plugin; put FETTLE_PLUGIN(...) into one of its "
            "sources, or remove the file from the plugin folder"},
        RefusalCase{"declines", "declines to work with this host (plugin interface 0.1): no licence server answers"},
        RefusalCase{"declines_silently",
                    "declines to work with this host (plugin interface 0.1): it gives no reason; ask its author"},
        RefusalCase{
            "entry_throws",
            "its entry function threw an exception; report this to the author, whose entry function must catch"},
        RefusalCase{"describe_throws", "declines to work with this host (plugin interface 0.1): describe() threw: boo"},
        RefusalCase{"describe_throws_int",
                    "declines to work with this host (plugin interface 0.1): describe() threw an unknown exception"},
        RefusalCase{
            "wrong_magic",
            "its table begins with 0x46454c46, expected 0x4c545446: the entry function returns something that is "
            "not a plugin table; export it with FETTLE_PLUGIN(...) and rebuild"},
        RefusalCase{
            "wrong_major",
            "built for plugin interface 3.1, this host offers 0.1: another major; rebuild the plugin with the SDK "
            "of this host, or use a host of version 3.x"},
        RefusalCase{
            "wrong_minor",
            "built for plugin interface 0.9, this host offers 0.1: before 1.0 the minor must be equal too; rebuild "
            "the plugin with the SDK of this host"},
        RefusalCase{
            "wrong_size",
            "built for plugin interface 0.1 with fettle_param of 64 bytes, this host's 0.1 has 72: a changed copy "
            "of abi.h or packed structs; rebuild the plugin with the SDK of this host"},
        RefusalCase{"wrong_pointer_bits",
                    "built for plugin interface 0.1 with 32-bit little-endian pointers, this host's 0.1 has 64-bit "
                    "little-endian ones; rebuild the plugin for x86-64"},
        RefusalCase{"same_id_twice",
                    "two of its techniques have the id 'test.same'; mend the plugin's description and rebuild it"},
        RefusalCase{"malformed_table",
                    "technique 'test.malformed': parameter 'mode' has the default 'medium', which is not among its "
                    "choices; mend the plugin's description and rebuild it"}),
    [](const auto& c) { return c.param.plugin; });

TEST(Registry, PassesOnTheLoadersSentenceAboutAMissingSymbol) {
  const Registry registry = discover(plugins_of + "bad");
  EXPECT_EQ(
      refusal_of(registry, "unresolved.so"),
      "cannot be loaded: " + fs::canonical(plugins_of + "bad").string() +
          "/unresolved.so: undefined symbol: function_of_a_missing_library; install what it needs, or rebuild it on "
          "this machine");
}

TEST(Registry, OffersNothingOfRefusedPlugins) {
  const Registry registry = discover(plugins_of + "bad");
  EXPECT_TRUE(registry.plugins().empty());
  EXPECT_TRUE(registry.techniques().empty());
}

TEST(Registry, RefusesBothPluginsThatOfferOneTechnique) {
  const Registry registry = discover(plugins_of + "twins");
  const std::string folder = fs::canonical(plugins_of + "twins").string();
  EXPECT_EQ(registry.find("test.twin"), nullptr);
  EXPECT_EQ(refusal_of(registry, "test_twin_a.so"), "offers technique 'test.twin', and so does '" + folder +
                                                        "/test_twin_b.so'; remove one of the two from the plugin path");
  EXPECT_EQ(refusal_of(registry, "test_twin_b.so"), "offers technique 'test.twin', and so does '" + folder +
                                                        "/test_twin_a.so'; remove one of the two from the plugin path");
}

TEST(Registry, ListsAPluginWithDigestAndTechniques) {
  const Registry registry = discover(plugins_of + "c11");
  ASSERT_EQ(registry.plugins().size(), 1u);
  EXPECT_TRUE(registry.refusals().empty());
  EXPECT_TRUE(registry.plugins()[0].ours);
  EXPECT_THAT(registry.plugins()[0].digest, ::testing::MatchesRegex("sha256:[0-9a-f]{64}"));
  ASSERT_NE(registry.find("test.repeat"), nullptr);
  EXPECT_EQ(registry.find("test.repeat")->plugin, &registry.plugins()[0]);
}

class BadFile : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
  }
  static std::string good_plugin() {
    std::ifstream in(plugins_of + "c11/test_repeat.so", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string refusal(const std::string& name) const { return refusal_of(discover(folder_), name); }
  std::string folder_ = test::temporary_folder();
};

TEST_F(BadFile, ThatIsTextIsRefused) {
  write("notes.so", "remember the milk");
  EXPECT_EQ(refusal("notes.so"),
            "not a shared library: the file does not begin with an ELF header; remove it from the plugin folder");
}

TEST_F(BadFile, ThatIsEmptyIsRefused) {
  write("empty.so", "");
  EXPECT_EQ(refusal("empty.so"),
            "not a shared library: the file does not begin with an ELF header; remove it from the plugin folder");
}

TEST_F(BadFile, ThatEndsInsideItsHeaderIsRefused) {
  write("short.so", good_plugin().substr(0, 20));
  EXPECT_EQ(refusal("short.so"),
            "the file is truncated: its contents end at byte 64, the file has 20; build or copy the plugin again");
}

TEST_F(BadFile, ThatIsCutAnywhereIsRefusedWithoutACrash) {
  const std::string whole = good_plugin();
  for (std::size_t size = 0; size < whole.size() / 2; size += 997) {
    write("cut.so", whole.substr(0, size));
    EXPECT_THAT(refusal("cut.so"), ::testing::AnyOf(::testing::HasSubstr("the file is truncated"),
                                                    ::testing::HasSubstr("not a shared library")))
        << size;
  }
}

TEST_F(BadFile, ForAnotherMachineIsRefused) {
  std::string bytes = good_plugin();
  bytes[18] = static_cast<char>(183);  // e_machine: AArch64
  bytes[19] = 0;
  write("arm.so", bytes);
  EXPECT_EQ(refusal("arm.so"),
            "built for another machine: 64-bit ELF machine 183, this host is 64-bit ELF machine 62 (x86-64); build the "
            "plugin for x86-64");
}

TEST_F(BadFile, ThatIsAnExecutableIsRefused) {
  std::string bytes = good_plugin();
  bytes[16] = 2;  // e_type: EXEC
  write("program.so", bytes);
  EXPECT_EQ(refusal("program.so"), "not a shared library: ELF type 2, expected 3 (DYN); link it with -shared");
}

TEST_F(BadFile, ThatIsAFolderIsRefused) {
  fs::create_directory(folder_ + "/folder.so");
  EXPECT_EQ(refusal("folder.so"), "not a regular file; remove it from the plugin folder");
}

TEST(SearchPath, GoesFromTheOptionOverTheEnvironmentToTheOwnFolder) {
  const std::string first = test::temporary_folder(), second = test::temporary_folder(), own = test::temporary_folder();
  ::setenv("FETTLE_PLUGIN_PATH", second.c_str(), 1);
  const Registry registry = Registry::discover({{first}, own});
  ::unsetenv("FETTLE_PLUGIN_PATH");
  EXPECT_EQ(registry.search_path(), (std::vector<std::string>{first, second, own}));
}

TEST(SearchPath, NeverHoldsTheCurrentDirectoryByEnvironment) {
  for (const char* path : {".", ":", "./", "x/.."}) {
    ::setenv("FETTLE_PLUGIN_PATH", path, 1);
    const std::string own = test::temporary_folder();
    const Registry registry = Registry::discover({{}, own});
    ::unsetenv("FETTLE_PLUGIN_PATH");
    EXPECT_EQ(registry.search_path(), std::vector<std::string>{own}) << path;
    ASSERT_FALSE(registry.refusals().empty()) << path;
  }
}

TEST(SearchPath, SaysWhyTheCurrentDirectoryIsLeftOut) {
  ::setenv("FETTLE_PLUGIN_PATH", ".", 1);
  const Registry registry = Registry::discover({{}, test::temporary_folder()});
  ::unsetenv("FETTLE_PLUGIN_PATH");
  ASSERT_EQ(registry.refusals().size(), 1u);
  EXPECT_EQ(registry.refusals()[0].path, "FETTLE_PLUGIN_PATH entry '.'");
  EXPECT_EQ(
      registry.refusals()[0].reason,
      "this means the current directory, from which plugins are never loaded; write the folder's full path, or use "
      "--plugin-dir");
}

TEST(SearchPath, NamesAFolderThatDoesNotExist) {
  const Registry registry = Registry::discover({{"/nonexistent/plugins"}, test::temporary_folder()});
  ASSERT_EQ(registry.refusals().size(), 1u);
  EXPECT_EQ(registry.refusals()[0].path, "/nonexistent/plugins");
  EXPECT_EQ(registry.refusals()[0].reason, "this plugin folder cannot be opened: No such file or directory");
}

TEST(SearchPath, LooksIntoAFolderOnce) {
  const std::string folder = plugins_of + "c11";
  const Registry registry = Registry::discover({{folder, folder}, folder});
  EXPECT_EQ(registry.plugins().size(), 1u);
  EXPECT_TRUE(registry.refusals().empty());
}

}  // namespace
}  // namespace fettle::host
