// SPDX-License-Identifier: Apache-2.0
// Stands in for libFuzzer: replays the corpus and runs seeded random mutations of the target's seeds. No coverage
// feedback, but the same run on every machine. FETTLE_FUZZ_SEED and FETTLE_FUZZ_ITERATIONS change it. What was running
// at a crash is left in the build folder as fuzz-crash-NAME: put it into corpus/NAME/ with the fix.
#include "fuzz/fuzz_driver.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

namespace {

const std::uint8_t* running_data = nullptr;
std::size_t running_size = 0;

extern "C" void save_running_input(int signal) {  // only what is allowed in a signal handler
  const int file = ::open(FETTLE_TEST_BINARY_DIR "/fuzz-crash-" FETTLE_FUZZ_TARGET, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (file >= 0 && ::write(file, running_data, running_size) >= 0) ::close(file);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const std::string& input) {
  running_data = reinterpret_cast<const std::uint8_t*>(input.data());
  running_size = input.size();
  LLVMFuzzerTestOneInput(running_data, running_size);
}

unsigned long from_environment(const char* name, unsigned long otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoul(text, nullptr, 10) : otherwise;
}

class Mutator {
 public:
  explicit Mutator(unsigned long seed) : random_(seed) {}

  std::string mutate(const std::vector<std::string>& seeds) {
    std::string text = seeds[below(seeds.size())];
    for (std::size_t steps = 1 + below(4); steps > 0; --steps) step(text, seeds[below(seeds.size())]);
    return text;
  }

 private:
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  /// A range of text, most often a short one.
  std::pair<std::size_t, std::size_t> range(const std::string& text) {
    const std::size_t first = below(text.size() + 1), left = text.size() - first;
    return {first, below(3) == 0 ? below(left + 1) : std::min(left, below(9))};
  }

  void step(std::string& text, const std::string& other) {
    static constexpr std::array<std::uint64_t, 12> numbers = {
        0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff, 1ull << 30, 1ull << 32, 1ull << 62, 1ull << 63, ~0ull};
    static constexpr std::array<const char*, 14> words = {
        "{", "}", "[", "]", "\"", ",", ":", "-1", "0", "1e9", "null", "18446744073709551616", "\\u0000", "\xff"};
    const auto [first, size] = range(text);
    switch (below(9)) {
      case 0:  // a bit
        if (!text.empty()) text[below(text.size())] ^= static_cast<char>(1 << below(8));
        break;
      case 1:  // a byte
        if (!text.empty()) text[below(text.size())] = static_cast<char>(random_());
        break;
      case 2: {  // a number that is often mishandled, of 1, 2, 4 or 8 bytes
        const std::uint64_t number = numbers[below(numbers.size())] + below(3) - 1;
        const std::size_t width = std::min<std::size_t>(1u << below(4), text.size() - first);
        std::memcpy(text.data() + first, &number, width);
        break;
      }
      case 3:
        text.erase(first, size);
        break;
      case 4:
        text.insert(below(text.size() + 1), std::string(text, first, size));
        break;
      case 5:
        text.resize(first);
        break;
      case 6:
        text.insert(first, words[below(words.size())]);
        break;
      case 7:
        text.replace(first, size, words[below(words.size())]);
        break;
      default: {  // from another seed
        const auto [from, length] = range(other);
        text.insert(first, std::string(other, from, length));
      }
    }
  }

  std::mt19937_64 random_;
};

class Fuzz : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, save_running_input);
  }
  void TearDown() override {
    for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, SIG_DFL);
  }
};

TEST_F(Fuzz, SurvivesTheCorpus) {
  for (const std::string& seed : fuzz_seeds()) run(seed);
  const std::filesystem::path corpus = FETTLE_TEST_SOURCE_DIR "/tests/fuzz/corpus/" FETTLE_FUZZ_TARGET;
  if (!std::filesystem::exists(corpus)) return;  // nothing found yet that is worth keeping
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
    SCOPED_TRACE(entry.path());
    std::ifstream file(entry.path(), std::ios::binary);
    run({std::istreambuf_iterator<char>(file), {}});
  }
}

TEST_F(Fuzz, SurvivesMutations) {
  const std::vector<std::string> seeds = fuzz_seeds();
  ASSERT_FALSE(seeds.empty());
  Mutator mutator(from_environment("FETTLE_FUZZ_SEED", 1));
  for (unsigned long left = from_environment("FETTLE_FUZZ_ITERATIONS", 200'000); left > 0; --left)
    run(mutator.mutate(seeds));
}

}  // namespace
