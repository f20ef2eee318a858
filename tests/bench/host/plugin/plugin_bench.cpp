// SPDX-License-Identifier: Apache-2.0
// How long it takes to find, check and hash 100 plugins. Target: under 20 ms.
#include "host/plugin/registry.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace {

namespace fs = std::filesystem;

/// Copies of one small plugin, each with an id of its own.
std::string folder_of_copies(int count) {
  std::string path = (fs::temp_directory_path() / "fettle-bench-XXXXXX").string();
  if (!::mkdtemp(path.data())) return {};
  std::ifstream in(std::string(FETTLE_BENCH_BINARY_DIR) + "/tests/plugins-c11/test_repeat.so", std::ios::binary);
  const std::string original(std::istreambuf_iterator<char>(in), {});
  const std::string id = "test.repeat";
  for (int i = 0; i < count; ++i) {
    std::string copy = original;
    for (std::size_t at = copy.find(id); at != std::string::npos; at = copy.find(id, at + 1))
      copy.replace(at, id.size(), fmt::format("test.rep{:03}", i));
    std::ofstream(fmt::format("{}/plugin{:03}.so", path, i), std::ios::binary) << copy;
  }
  return path;
}

/// The first look only: later ones find the libraries loaded. So each iteration has fresh copies.
void BM_Discover(benchmark::State& state) {
  const int count = static_cast<int>(state.range(0));
  std::size_t found = 0;
  for (auto _ : state) {
    state.PauseTiming();
    const std::string folder = folder_of_copies(count);
    state.ResumeTiming();
    found = fettle::host::Registry::discover({{}, folder}).techniques().size();
    state.PauseTiming();
    fs::remove_all(folder);
    state.ResumeTiming();
  }
  if (found != static_cast<std::size_t>(count)) state.SkipWithError("not all copies were accepted");
}
BENCHMARK(BM_Discover)->Arg(10)->Arg(100)->Iterations(10)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
