// SPDX-License-Identifier: Apache-2.0
// A step of distillation beside what it is made of: a step of training the same student on the text alone, and the
// teacher's forward pass, in turns in one process. The pair is that of docs/explanation/quality.md: prose-34m's shape
// (8 blocks, hidden 512, MLP 1536, 8 heads on 4) and a student with 4 heads and an MLP of 672, vocabulary 8192, 4
// sequences of 256 random tokens. The peer is the same pair in PyTorch, distillation_peer.py. Arguments: threads (2),
// steps (5). Times are CPU seconds, since other programs may share the machine.
#include "fettle_kit/model/network.h"

#include "bench/kit/kernels/machine_limits.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

namespace fettle::kit {
namespace {

constexpr std::int64_t kSequences = 4, kLength = 256, kVocab = 8192, kTokens = kSequences * kLength;

double cpu_now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

ModelConfig shape(int heads, int mlp) {
  const Json json = {{"architectures", {"LlamaForCausalLM"}},
                     {"model_type", "llama"},
                     {"hidden_size", 512},
                     {"intermediate_size", mlp},
                     {"num_hidden_layers", 8},
                     {"num_attention_heads", heads},
                     {"num_key_value_heads", 4},
                     {"head_dim", 64},
                     {"vocab_size", kVocab},
                     {"max_position_embeddings", 512},
                     {"rms_norm_eps", 1e-5},
                     {"rope_theta", 10000.0},
                     {"hidden_act", "silu"},
                     {"tie_word_embeddings", false}};
  const auto config = read_model_config(json, "bench");
  if (!config.ok()) std::abort();
  return *config;
}

/// Floating-point operations of the matrix products of one forward pass, a token: all weights but the embedding, and
/// the causal half of attention.
double forward_flops(const ModelConfig& c) {
  const auto embedding = static_cast<double>(c.vocab * c.hidden);
  return 2 * (static_cast<double>(c.parameters()) - embedding) +
         2 * static_cast<double>(c.layers * c.heads * c.head_dim * kLength);
}

class Pair {
 public:
  Pair(Backend& backend, Precision precision)
      : backend_(backend),
        student_(*Network::create(backend, shape(4, 672), 1, 0.02,
                                  {.precision = precision, .checkpointing = false, .frozen = false})),
        teacher_(*Network::create(backend, shape(8, 1536), 2, 0.02,
                                  {.precision = precision, .checkpointing = false, .frozen = true})) {
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < kTokens; ++i) {
      const auto next = [&] {
        return static_cast<std::int32_t>((state = state * 1664525u + 1013904223u) >> 8) % kVocab;
      };
      ids_.push_back(next());
      labels_.push_back(next());
    }
    for (const Parameter& p : student_.parameters())
      for (auto* moments : {&first_, &second_}) {
        moments->push_back(backend.allocate(p.value.rows, p.value.cols));
        backend.fill(moments->back(), 0);
      }
  }

  void teach() {
    if (!teacher_.forward(ids_, {kSequences, kLength}).ok()) std::abort();
  }

  /// From the text, or from the teacher, which goes forward first.
  void step(bool distil) {
    LossTarget target;
    if (distil) {
      teach();
      target.teacher_hidden = teacher_.hidden();
      target.teacher_head = teacher_.head();
      target.teacher_scale = 1.0 / static_cast<double>(kTokens);
    } else {
      target.labels = labels_;
      target.label_scale = 1.0 / static_cast<double>(kTokens);
    }
    student_.zero_gradients();
    if (!student_.forward(ids_, {kSequences, kLength}).ok()) std::abort();
    (void)student_.head_loss(target);
    student_.backward();
    double squares = 0;
    for (const Parameter& p : student_.parameters()) squares += backend_.sum_squares(p.gradient);
    const AdamwStep adamw{.rate = 1e-5f, .decay = 0.01f, .gradient_scale = squares > 1e12 ? 0.5f : 1.0f};
    std::size_t i = 0;
    for (const Parameter& p : student_.parameters()) {
      backend_.adamw(p.value, first_[i], second_[i], p.gradient, p.used, adamw);
      ++i;
    }
  }

  double flops(bool distil) const {
    const double student = 3 * forward_flops(student_.config());
    return static_cast<double>(kTokens) * (student + (distil ? forward_flops(teacher_.config()) : 0));
  }

 private:
  Backend& backend_;
  Network student_, teacher_;
  std::vector<Array> first_, second_;
  std::vector<std::int32_t> ids_, labels_;
};

void run(int threads, int steps) {
  const auto backend = make_cpu_backend();
  const double peak = bench::fma_peak_gflops();
  fmt::print("f32 FMA peak of a core now: {:.0f} GFLOP/s; {} threads, best of {} in turns, CPU seconds\n", peak,
             threads, steps);
  for (const auto& [name, precision] : {std::pair{"f32", Precision::real}, std::pair{"bf16", Precision::bf16}}) {
    Pair pair(*backend, precision);
    double text = 1e9, teacher = 1e9, distil = 1e9;
    const auto timed = [](double& best, auto&& what) {
      const double start = cpu_now();
      what();
      best = std::min(best, cpu_now() - start);
    };
    pair.step(true);
    for (int i = 0; i < steps; ++i) {
      timed(text, [&] { pair.step(false); });
      timed(teacher, [&] { pair.teach(); });
      timed(distil, [&] { pair.step(true); });
    }
    fmt::print(
        "{:5} student from text {:6.3f} s ({:5.0f} tokens/s), teacher forward {:6.3f} s, distillation {:6.3f} s "
        "({:5.0f} "
        "tokens/s): {:.2f} of the speed of the two together; {:.1f} GFLOP, {:.0f} GFLOP/s, {:.2f} of the f32 peak\n",
        name, text, kTokens / text, teacher, distil, kTokens / distil, (text + teacher) / distil,
        pair.flops(true) * 1e-9, pair.flops(true) / distil * 1e-9, pair.flops(true) / distil * 1e-9 / peak);
  }
}

}  // namespace
}  // namespace fettle::kit

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, steps = argc > 2 ? std::atoi(argv[2]) : 5;
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
  tbb::task_arena(threads).execute([&] { fettle::kit::run(threads, steps); });
}
