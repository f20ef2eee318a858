// SPDX-License-Identifier: Apache-2.0
// The promise of the whole program: the same pipeline gives the same bytes for any number of cores and whatever happens
// on the way. `fettle run` is killed at fifty random moments and run again; the results never differ from those of a
// run that nobody disturbed.
#include "fettle_kit/io/sha256.h"

#include "host/store/store.h"
#include "unit/host/store/temporary_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <thread>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

const std::string kProgram = FETTLE_TEST_BINARY_DIR "/bin/fettle";

class Pipeline {
 public:
  Pipeline() {
    const std::string data = FETTLE_TEST_SOURCE_DIR "/pipelines/data";
    write_file(folder_ / "pipeline.yaml", R"(fettle: 1
name: determinism
inputs:
  base: {kind: model, path: )" + data + R"(/prose-3m}
steps:
  pruned: {use: prune.magnitude, in: {model: base}, with: {pattern: "2:4"}}
  half: {use: prune.magnitude, in: {model: base}, with: {share: 0.5}}
  small:
    use: quantize.gguf
    matrix:
      weights:
        dense: {in: {model: base}}
        pruned: {in: {model: pruned}}
        half: {in: {model: half}}
      type: [Q8_0, Q4_0]
    with: {type: "${matrix.type}"}
outputs:
  models: {from: "small[*]", path: "out/{instance}.gguf"}
  pruned: {from: pruned, path: out/pruned}
)");
  }

  pid_t start(int jobs) const {
    const std::string file = folder_ / "pipeline.yaml", store = folder_ / "store", count = std::to_string(jobs);
    const pid_t child = ::fork();
    if (child == 0) {
      (void)!::freopen((folder_ / "log.txt").c_str(), "w", stderr);
      (void)!::freopen("/dev/null", "w", stdout);
      ::execl(kProgram.c_str(), "fettle", "run", file.c_str(), "--store", store.c_str(), "--jobs", count.c_str(),
              nullptr);
      ::_exit(127);
    }
    return child;
  }
  int run(int jobs) const { return finish(start(jobs)); }
  static int finish(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string log() const { return text_of(folder_ / "log.txt"); }

  /// SHA-256 of every published file, and the digest of every output of every step.
  std::map<std::string, std::string> digests() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "out"))
      if (entry.is_regular_file())
        all[entry.path().lexically_relative(folder_.path())] = kit::sha256_hex(text_of(entry.path()));
    const auto record = nlohmann::json::parse(text_of(folder_ / "store/runs/latest"));
    for (const auto& step : record["steps"])
      for (const auto& [port, output] : step["outputs"].items())
        all[step["name"].get<std::string>() + "." + port] = output["digest"];
    return all;
  }
  void forget() const {
    (void)remove_tree(folder_ / "store");
    (void)remove_tree(folder_ / "out");
  }
  /// Nothing unfinished shows: each published file is whole, each record's objects are what they are called.
  void check(const std::map<std::string, std::string>& expected) const {
    std::error_code none;
    for (fs::recursive_directory_iterator it(folder_ / "out", none), end; !none && it != end; it.increment(none)) {
      const std::string name = it->path().lexically_relative(folder_.path());
      if (!it->is_regular_file() || name.find("/.") != name.npos) continue;  // "/.": a temporary name, not shown
      const auto known = expected.find(name);
      ASSERT_NE(known, expected.end()) << name;
      ASSERT_EQ(kit::sha256_hex(text_of(it->path())), known->second) << name;
    }
    if (!fs::exists(folder_ / "store/records")) return;
    const Store store = *Store::open(folder_ / "store");
    ASSERT_THAT(*store.verify(), testing::IsEmpty());
  }

 private:
  TemporaryFolder folder_;
};

TEST(Determinism, SameBytesForAnyNumberOfCoresAndAfterFiftyKills) {
  if (!fs::exists(kProgram)) GTEST_SKIP() << "the program is not built";
  Pipeline pipeline;
  ASSERT_EQ(pipeline.run(1), 0) << pipeline.log();
  const auto expected = pipeline.digests();
  ASSERT_GE(expected.size(), 6u + 6u + 2u) << "published files, outputs of the matrix and of the two others";

  pipeline.forget();
  const auto begin = Clock::now();
  ASSERT_EQ(pipeline.run(2), 0) << pipeline.log();
  // On a busy machine a run may take long; the moments of killing need not.
  const auto whole = std::min<Clock::duration>(Clock::now() - begin, std::chrono::seconds(1));
  EXPECT_EQ(pipeline.digests(), expected);

  std::mt19937 random(2026);
  pipeline.forget();
  int kills = 0, completions = 0;
  for (int round = 0; kills < 50 && round < 400; ++round) {
    const pid_t child = pipeline.start(1 + round % 2);
    std::this_thread::sleep_for(whole * (random() % 1000) / 1000);
    ::kill(child, SIGKILL);
    const int code = Pipeline::finish(child);
    if (code == -SIGKILL) {
      ++kills;
      ASSERT_NO_FATAL_FAILURE(pipeline.check(expected)) << "round " << round;
      continue;
    }
    ASSERT_EQ(code, 0) << pipeline.log();
    ASSERT_EQ(pipeline.digests(), expected) << "round " << round;
    ++completions;
    pipeline.forget();
  }
  EXPECT_EQ(kills, 50);
  ASSERT_EQ(pipeline.run(2), 0) << pipeline.log();
  EXPECT_EQ(pipeline.digests(), expected);
  RecordProperty("completions", completions);
}

}  // namespace
}  // namespace fettle::host
