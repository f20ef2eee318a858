// SPDX-License-Identifier: Apache-2.0
// A training that is killed, again and again, gives the bytes of one that nobody disturbed.
#include "fettle_kit/io/sha256.h"

#include "unit/host/store/temporary_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

const std::string kProgram = FETTLE_TEST_BINARY_DIR "/bin/fettle";

/// Twelve steps of a technique; the state is saved after each.
class Training {
 public:
  /// `step`: the rest of the step `trained`, a model.
  explicit Training(const std::string& step) {
    const std::string data = FETTLE_TEST_SOURCE_DIR "/pipelines/data";
    write_file(folder_ / "pipeline.yaml", R"(fettle: 1
name: killed
inputs:
  base: {kind: model, path: )" + data + R"(/prose-3m}
  held: {kind: text, path: )" + data + R"(/held-out.txt}
steps:
  data: {use: data.tokens, in: {text: held, tokenizer: base}, with: {length: 32, sequences: 24}}
  trained:
)" + step + R"(
outputs:
  model: {from: trained, path: out}
)");
  }

  pid_t start(const char* store) const {
    const std::string file = folder_ / "pipeline.yaml", at = folder_ / store;
    const pid_t child = ::fork();
    if (child == 0) {
      (void)!::freopen((folder_ / "log.txt").c_str(), "w", stderr);
      (void)!::freopen("/dev/null", "w", stdout);
      ::execl(kProgram.c_str(), "fettle", "run", file.c_str(), "--store", at.c_str(), nullptr);
      ::_exit(127);
    }
    return child;
  }
  static int finish(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string log() const { return text_of(folder_ / "log.txt"); }
  std::string digest() const { return kit::sha256_hex(text_of(folder_ / "out/model.safetensors")); }

  /// When the newest state was written, or the beginning of time.
  fs::file_time_type last_save(const char* store) const {
    fs::file_time_type last = fs::file_time_type::min();
    std::error_code error;
    for (fs::recursive_directory_iterator it(folder_ / store, error), end; !error && it != end; it.increment(error))
      if (it->path().filename() == "state.safetensors") last = std::max(last, fs::last_write_time(it->path(), error));
    return last;
  }

 private:
  TemporaryFolder folder_;
};

void expect_same_bits_when_killed(const Training& training) {
  if (!fs::exists(kProgram)) GTEST_SKIP() << "the program is not built";
  ASSERT_EQ(Training::finish(training.start("unbroken")), 0) << training.log();
  const std::string expected = training.digest();

  int kills = 0;
  for (int round = 0; round < 4; ++round) {
    const auto before = training.last_save("store");
    const pid_t child = training.start("store");
    // Until the round's first state is there, at most until the child is done.
    while (training.last_save("store") == before && ::waitpid(child, nullptr, WNOHANG) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    kills += ::kill(child, SIGKILL) == 0;
    ::waitpid(child, nullptr, 0);
  }
  EXPECT_GE(kills, 2);
  ASSERT_EQ(Training::finish(training.start("store")), 0) << training.log();
  EXPECT_THAT(training.log(), testing::HasSubstr("going on after step"));
  EXPECT_EQ(training.digest(), expected);
}

TEST(Determinism, AKilledDistillationGoesOnToTheSameBits) {
  expect_same_bits_when_killed(Training(R"(    use: distill.logits
    in: {student: pruned, teacher: base, data: data, held_out: data, mask: pruned.mask}
    with: {steps: 12, batch: 2, micro_batch: 2, evaluate_every: 4, save_every: 1}
  pruned: {use: prune.magnitude, in: {model: base}, with: {pattern: "2:4"}})"));
}

TEST(Determinism, AKilledQuantizationAwareTrainingGoesOnToTheSameBits) {
  expect_same_bits_when_killed(Training(R"(    use: distill.qat
    in: {student: base, teacher: base, data: data, held_out: data}
    with: {type: Q4_0, steps: 12, batch: 2, micro_batch: 2, evaluate_every: 4, save_every: 1})"));
}

}  // namespace
}  // namespace fettle::host
