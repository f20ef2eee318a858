// SPDX-License-Identifier: Apache-2.0
// A process that works on a store may be killed at any instant. Whatever is left, the next one must end up with the
// same result, and nothing in the store may hold bytes that do not match its name.
#include "fettle_kit/io/sha256.h"

#include "host/store/store.h"
#include "unit/host/store/temporary_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

namespace fettle::host {
namespace {

namespace fs = std::filesystem;

std::string key_of(int step) { return kit::sha256_hex("step " + std::to_string(step)); }
constexpr int kSteps = 6;

/// Runs all steps that have no record; returns how many it ran, or -1 after a failure. Called in forked children too.
int work(const std::string& root) {
  const auto store = Store::open(root);
  if (!store.ok()) return -1;
  int ran = 0;
  for (int step = 0; step < kSteps; ++step) {
    auto begun = store->begin(key_of(step), {"model", "mask"}, nullptr);
    if (!begun.ok()) return -1;
    auto* transaction = std::get_if<Store::Transaction>(&*begun);
    if (!transaction) continue;
    for (int file = 0; file < 4; ++file)
      write_file(transaction->staging("model") + "/part-" + std::to_string(file),
                 std::string(20'000, static_cast<char>('a' + step)) + std::to_string(file));
    write_file(transaction->staging("mask") + "/mask", std::string(1000, 'm'));
    auto record = transaction->commit({}, {{"model", "model"}, {"mask", "mask"}});
    if (!record.ok()) return -1;
    if (!store->path_of(record->outputs[0].second).ok()) return -1;
    ++ran;
  }
  return ran;
}

std::vector<std::string> digests(const Store& store) {
  std::vector<std::string> all;
  for (int step = 0; step < kSteps; ++step) {
    const auto record = store.find(key_of(step));
    all.push_back(record ? record->outputs[0].second.digest + record->outputs[1].second.digest : "none");
  }
  return all;
}

TEST(StoreUnderKill, EndsWithTheSameDigestsWheneverItIsKilled) {
  TemporaryFolder folder;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(work(folder / "reference"), kSteps);
  const auto whole = std::chrono::steady_clock::now() - begin;
  const auto expected = digests(*Store::open(folder / "reference"));

  std::mt19937 random(42);
  // Follows the speed of the children, so that about half are caught at work on a busy machine too.
  auto window = whole;
  int killed = 0;
  for (int round = 0; round < 300 && killed < 50; ++round) {
    const std::string root = folder / ("store" + std::to_string(round % 20));  // each is hit several times
    if (round >= 20 && fs::exists(root + "/records"))
      for (const auto& entry : fs::directory_iterator(root + "/records"))
        if (random() % 2) fs::remove(entry.path());  // so that there is work left to interrupt
    const pid_t child = ::fork();
    if (child == 0) ::_exit(work(root) < 0);
    std::this_thread::sleep_for(window * (random() % 1000) / 1000);
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    killed += WIFSIGNALED(status);
    window = WIFSIGNALED(status) ? std::min(whole, window + window / 16) : window - window / 16;

    if (fs::exists(root)) {
      const Store store = *Store::open(root);
      ASSERT_THAT(*store.verify(), testing::IsEmpty()) << "round " << round;
      for (const auto& entry : fs::directory_iterator(root + "/objects"))
        ASSERT_EQ(kit::sha256_hex(text_of(entry.path().string())), entry.path().filename()) << "round " << round;
    }
    ASSERT_GE(work(root), 0) << "round " << round;
    const Store store = *Store::open(root);
    ASSERT_EQ(digests(store), expected) << "round " << round;
    ASSERT_TRUE(store.collect(std::nullopt, false).ok());
    ASSERT_TRUE(fs::is_empty(root + "/staging"));
    ASSERT_EQ(digests(store), expected) << "round " << round;
  }
  EXPECT_EQ(killed, 50);
}

TEST(StoreUnderKill, FreesTheLeaseOfAKilledProcessAtOnce) {
  TemporaryFolder folder;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto store = Store::open(folder / "store");
    const auto begun = store->begin(key_of(0), {"model"}, nullptr);
    (void)!::write(ready[1], "x", 1);
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const Store store = *Store::open(folder / "store");
  int polls = 0;
  EXPECT_FALSE(store.begin(key_of(0), {"model"}, [&] { return ++polls == 3; }).ok());
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(store.begin(key_of(0), {"model"}, [] { return true; }).ok());
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(StoreSharedByProcesses, ComputesEachKeyOnce) {
  TemporaryFolder folder;
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(work(folder / "store") & 0xff);
    children.push_back(child);
  }
  int ran = 0;
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    ran += WEXITSTATUS(status);
  }
  EXPECT_EQ(ran, kSteps);
}

}  // namespace
}  // namespace fettle::host
