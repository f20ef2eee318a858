// SPDX-License-Identifier: Apache-2.0
// What running a step costs beside its work: lease, staging, hashing, four fsyncs (the file, the folder of objects, the
// record, the folder of records), events. 200 steps that write a few bytes each. The limit is the disk: `fsyncs` does
// nothing but those four. TMPDIR=/dev/shm shows what is left without a disk.
#include "host/run/run.h"
#include "unit/host/run/techniques.h"
#include "unit/host/store/temporary_folder.h"

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

namespace fettle::host {
namespace {

constexpr int kSteps = 200;

std::string pipeline_text(bool chain) {
  std::string text = "fettle: 1\nname: bench\nsteps:\n  s0: {use: test.write, with: {text: x}}\n";
  for (int i = 1; i < kSteps; ++i) {
    const std::string name = "  s" + std::to_string(i);
    text += chain ? name + ": {use: test.join, in: {files: [s" + std::to_string(i - 1) + ", s0]}}\n"
                  : name + ": {use: test.write, with: {text: \"" + std::to_string(i) + "\"}}\n";
  }
  return text;
}

void run_pipeline(benchmark::State& state, bool chain, bool cached) {
  TemporaryFolder folder;
  write_file(folder / "pipeline.yaml", pipeline_text(chain));
  Diagnostics diagnostics;
  const auto pipeline = std::make_shared<const Pipeline>(load_pipeline(folder / "pipeline.yaml", {}, diagnostics));
  RunOptions options;
  options.jobs = 2;
  if (cached) {
    Store store = *Store::open(folder / "store");
    Plan plan = make_plan(pipeline, test::catalogue(), &store, diagnostics);
    (void)run_plan(plan, store, options);
  }
  for (auto _ : state) {
    state.PauseTiming();
    if (!cached) (void)remove_tree(folder / "store");
    {
      Store store = *Store::open(folder / "store");
      Plan plan = make_plan(pipeline, test::catalogue(), &store, diagnostics);
      state.ResumeTiming();
      if (!run_plan(plan, store, options).ok()) state.SkipWithError("the run failed");
      state.PauseTiming();
    }
    state.ResumeTiming();
  }
  state.counters["per_step"] =
      benchmark::Counter(kSteps, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void fsyncs(benchmark::State& state) {
  TemporaryFolder folder;
  (void)make_folder(folder / "d");
  for (auto _ : state)
    for (int step = 0; step < kSteps; ++step)
      for (const char* kind : {"object", "record"}) {
        const std::string path = folder / "d/" + kind + std::to_string(step);
        (void)replace_file(path, path + ".new", "a few bytes");
        (void)sync_folder(folder / "d");
      }
  state.counters["per_step"] =
      benchmark::Counter(kSteps, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

BENCHMARK_CAPTURE(run_pipeline, independent, false, false)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(run_pipeline, chain, true, false)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(run_pipeline, cached, false, true)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(fsyncs)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace fettle::host

BENCHMARK_MAIN();
