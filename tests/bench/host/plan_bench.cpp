// SPDX-License-Identifier: Apache-2.0
// Reading and planning a pipeline of 200 steps: at most 50 ms together.
#include "host/plan/plan.h"
#include "unit/host/plan/test_techniques.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>

namespace {

using namespace fettle::host;

/// Forty chains of five steps, with gates, variables and parameters.
std::string pipeline_of_200_steps() {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "fettle-plan-bench";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "text.txt") << "text\n";
  std::ofstream out(folder / "p.yaml");
  out << "fettle: 1\nvars: {note: {type: string, default: hello}}\ninputs: {corpus: {kind: text, path: "
         "text.txt}}\nsteps:\n";
  for (int i = 0; i < 200; ++i)
    out << fmt::format(
        "  s{}: {{use: text.count, in: {{text: {}}}, with: {{words: text.txt, note: \"${{vars.note}} {}\"}}, gate: "
        "{{require: \"n < {}\"}}}}\n",
        i, i % 5 == 0 ? "corpus" : fmt::format("s{}", i - 1), i, i);
  return (folder / "p.yaml").string();
}

void load(benchmark::State& state) {
  const std::string path = pipeline_of_200_steps();
  for (auto _ : state) {
    Diagnostics diagnostics;
    benchmark::DoNotOptimize(load_pipeline(path, {}, diagnostics));
  }
}
BENCHMARK(load)->Unit(benchmark::kMillisecond);

void load_and_plan(benchmark::State& state) {
  const std::string path = pipeline_of_200_steps();
  const auto store = Store::open((std::filesystem::path(path).parent_path() / "store").string());
  for (auto _ : state) {
    Diagnostics diagnostics;
    const auto pipeline = std::make_shared<const Pipeline>(load_pipeline(path, {}, diagnostics));
    const Plan plan = make_plan(pipeline, test::catalogue(), &*store, diagnostics);
    if (diagnostics.has_errors() || plan.steps.size() != 200) state.SkipWithError("the pipeline is wrong");
  }
}
BENCHMARK(load_and_plan)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
