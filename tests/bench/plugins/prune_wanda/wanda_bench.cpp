// SPDX-License-Identifier: Apache-2.0
// Pruning beside the calibration forward pass it rides on: seconds of the process's CPU time, in turns, best of three.
// Random tokens, 2:4, no sequences held out.
//
//   bench_plugins_prune_wanda MODEL [SEQUENCES [LENGTH]]

#include "fettle_kit/calibrate/block_walk.h"
#include "fettle_kit/tensor/philox.h"

#include "plugins/harness.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace {

using namespace fettle::kit;
using fettle::test::Step;
using fettle::test::StepResult;

double cpu_seconds(const std::function<void()>& work) {
  timespec a{}, b{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
  work();
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
  return static_cast<double>(b.tv_sec - a.tv_sec) + static_cast<double>(b.tv_nsec - a.tv_nsec) * 1e-9;
}

void stop_unless(bool ok, const std::string& message) {
  if (ok) return;
  fmt::print(stderr, "{}\n", message);
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  stop_unless(argc > 1, "usage: see the head of wanda_bench.cpp");
  const std::string folder = argv[1];
  const std::int64_t sequences = argc > 2 ? std::atoll(argv[2]) : 64, length = argc > 3 ? std::atoll(argv[3]) : 256;
  auto weights = Weights::open(folder);
  stop_unless(weights.ok(), weights ? "" : weights.error().message());
  const auto model = Decoder::open(*std::move(weights));
  stop_unless(model.ok(), model ? "" : model.error().message());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(sequences * length));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(philox_below(1, i, static_cast<std::uint64_t>(model->config().vocab)));
  const TokenSet tokens(std::move(ids), length, "sha256:" + std::string(64, '0'), false);
  const std::string calibration = fettle::test::temporary_folder();
  stop_unless(tokens.save(calibration).ok(), "the tokens could not be written");

  const auto forward = [&] {
    auto walk = BlockWalk::start(*model, tokens);
    while (walk && !walk->done()) stop_unless(walk->advance(nullptr).ok(), "the forward pass failed");
  };
  const auto prune = [&](const std::string& plugin, const std::string& technique, const std::string& propagation) {
    const StepResult r = Step(plugin, technique)
                             .input("model", "model", folder, {{"layout", "hf"}})
                             .input("calibration", "tokens", calibration)
                             .param("pattern", "2:4")
                             .param("propagation", propagation)
                             .param("held_out", 0)
                             .run();
    stop_unless(r.ok(), r.message);
  };
  struct Case {
    const char* plugin;
    const char* technique;
    const char* propagation;
    int passes;
    double seconds = 1e30;
  };
  Case cases[] = {{"prune_wanda", "prune.wanda", "dense", 1},
                  {"prune_wanda", "prune.wanda", "compressed", 2},
                  {"prune_sparsegpt", "prune.sparsegpt", "compressed", 2}};
  double pass = 1e30;
  for (int turn = 0; turn < 3; ++turn) {
    pass = std::min(pass, cpu_seconds(forward));
    for (Case& c : cases)
      c.seconds = std::min(c.seconds, cpu_seconds([&] { prune(c.plugin, c.technique, c.propagation); }));
  }
  fmt::print("{} tokens; a forward pass through the blocks: {:.2f} s\n", tokens.sequences() * length, pass);
  for (const Case& c : cases)
    fmt::print("{:<16} propagation {:<11} {:>6.2f} s, {:.2f} of its {} passes\n", c.technique, c.propagation, c.seconds,
               c.seconds / pass / c.passes, c.passes);
  return 0;
}
