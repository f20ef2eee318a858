// SPDX-License-Identifier: Apache-2.0
// A training step (forward, backward, AdamW) of a 58M-parameter Llama on 4 sequences of 256 random tokens: the peer is
// the same model in PyTorch, tests/bench/kit/model/training_peer.py. Arguments: threads (2), steps (5), which of the
// cases (all). Prints tokens a
// second of wall-clock time and, since other programs may share the machine, of CPU time if all threads were ours; then
// where the time goes.
#include "fettle_kit/model/network.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <tuple>
#include <vector>

namespace fettle::kit {
namespace {

constexpr std::int64_t kSequences = 4, kLength = 256, kVocab = 32000;

double wall_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double cpu_now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct Clock {
  double wall = wall_now(), cpu = cpu_now();
};

/// One training set-up: network, moments, data.
class Training {
 public:
  Training(Backend& backend, const ModelConfig& config, Precision precision, bool checkpointing)
      : backend_(backend),
        network_(*Network::create(backend, config, 1, 0.02,
                                  {.precision = precision, .checkpointing = checkpointing, .frozen = false})) {
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < kSequences * kLength; ++i) {
      const auto next = [&] {
        return static_cast<std::int32_t>((state = state * 1664525u + 1013904223u) >> 8) % kVocab;
      };
      ids_.push_back(next());
      labels_.push_back(next());
    }
    for (const Parameter& p : network_.parameters()) {
      for (auto* moments : {&first_, &second_}) {
        moments->push_back(backend.allocate(p.value.rows, p.value.cols));
        backend.fill(moments->back(), 0);
      }
    }
  }

  /// Seconds of wall-clock time of forward, head and loss, backward, optimizer.
  std::vector<double> step() {
    std::vector<double> times{wall_now()};
    network_.zero_gradients();
    if (!network_.forward(ids_, {kSequences, kLength}).ok()) std::abort();
    times.push_back(wall_now());
    LossTarget target;
    target.labels = labels_;
    target.label_scale = 1.0 / static_cast<double>(labels_.size());
    const LossSums sums = network_.head_loss(target);
    loss = sums.cross_entropy / static_cast<double>(sums.labels);
    times.push_back(wall_now());
    network_.backward();
    times.push_back(wall_now());
    double squares = 0;
    for (const Parameter& p : network_.parameters()) squares += backend_.sum_squares(p.gradient);
    const AdamwStep adamw{.rate = 1e-4f, .decay = 0.01f, .gradient_scale = squares > 1e12 ? 0.5f : 1.0f};
    std::size_t i = 0;
    for (const Parameter& p : network_.parameters()) {
      backend_.adamw(p.value, first_[i], second_[i], p.gradient, p.used, adamw);
      ++i;
    }
    times.push_back(wall_now());
    for (std::size_t part = times.size() - 1; part > 0; --part) times[part] -= times[part - 1];
    times.erase(times.begin());
    return times;
  }

  double loss = 0;

 private:
  Backend& backend_;
  Network network_;
  std::vector<Array> first_, second_;
  std::vector<std::int32_t> ids_, labels_;
};

int run(int threads, int steps, const std::string& only) {
  const Json json = {{"architectures", {"LlamaForCausalLM"}},
                     {"model_type", "llama"},
                     {"hidden_size", 512},
                     {"intermediate_size", 1376},
                     {"num_hidden_layers", 8},
                     {"num_attention_heads", 8},
                     {"num_key_value_heads", 8},
                     {"vocab_size", kVocab},
                     {"max_position_embeddings", 2048},
                     {"rms_norm_eps", 1e-5},
                     {"rope_theta", 10000.0},
                     {"hidden_act", "silu"},
                     {"tie_word_embeddings", false}};
  const auto config = read_model_config(json, "bench");
  if (!config.ok()) return fmt::print(stderr, "{}\n", config.error().message()), 1;
  const auto backend = make_cpu_backend();
  constexpr double kTokens = kSequences * kLength;
  for (const auto& [name, precision, checkpointing] :
       {std::tuple{std::string("train f32"), Precision::real, false}, std::tuple{std::string("train bf16"), Precision::bf16, false},
        std::tuple{std::string("train bf16, checkpointing"), Precision::bf16, true}}) {
    if (!only.empty() && only != name) continue;
    Training training(*backend, *config, precision, checkpointing);
    training.step();
    const double first_loss = training.loss;
    double wall = 1e9, cpu = 1e9;
    std::vector<double> parts;
    for (int i = 0; i < steps; ++i) {
      const Clock start;
      const std::vector<double> times = training.step();
      if (const double taken = wall_now() - start.wall; taken < wall) wall = taken, parts = times;
      cpu = std::min(cpu, cpu_now() - start.cpu);
    }
    fmt::print(
        "{:26} best of {}: {:6.0f} ms, {:6.0f} tokens/s; CPU {:6.3f} s, {:6.0f} tokens/s if all cores were ours; "
        "forward {:.0f}, head and loss {:.0f}, backward {:.0f}, optimizer {:.0f} ms; loss {:.4f} -> {:.4f}\n",
        name, steps, wall * 1e3, kTokens / wall, cpu, kTokens * threads / cpu, parts[0] * 1e3, parts[1] * 1e3,
        parts[2] * 1e3, parts[3] * 1e3, first_loss, training.loss);
  }
  return 0;
}

}  // namespace
}  // namespace fettle::kit

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, steps = argc > 2 ? std::atoi(argv[2]) : 5;
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
  int result = 0;
  tbb::task_arena(threads).execute([&] { result = fettle::kit::run(threads, steps, argc > 3 ? argv[3] : ""); });
  return result;
}
