// SPDX-License-Identifier: Apache-2.0
// The forward pass alone. Scoring: hidden states, logits and likelihoods of 4 sequences of 256 tokens by the
// 58M-parameter Llama of training_bench.cpp, as perplexity and calibration run it; the peer is
// tests/bench/kit/model/forward_peer.py. Decoding: one token at a time through the cache, by a model of 480M parameters
// in bf16 (0.96 GB), beside reading as many bytes. Arguments: threads (2), repeats (5), which (score or decode; both).
// Checkpoints of random weights are written to TMPDIR and removed.
#include "fettle_kit/eval/scoring.h"
#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/model/decoder.h"

#include "bench/kit/kernels/machine_limits.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

namespace fettle::kit {
namespace {

double wall_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double cpu_now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct Clock {
  double wall = wall_now(), cpu = cpu_now();
};

/// The least of several runs.
struct Best {
  double wall = 1e9, cpu = 1e9;
  void add(const Clock& start) {
    wall = std::min(wall, wall_now() - start.wall);
    cpu = std::min(cpu, cpu_now() - start.cpu);
  }
};

struct Shape {
  std::int64_t hidden, ffn, layers, heads, kv_heads, vocab;
};
constexpr Shape kSmall{512, 1376, 8, 8, 8, 32000}, kLarge{2048, 5632, 8, 32, 8, 32000};

/// A checkpoint of random bf16 weights that goes with the object.
class RandomModel {
 public:
  explicit RandomModel(const Shape& s) : folder_(std::filesystem::temp_directory_path() / "fettle-forward-bench") {
    std::filesystem::remove_all(folder_);
    const std::int64_t head = s.hidden / s.heads, kv = s.kv_heads * head;
    std::vector<TensorSpec> specs{{"model.embed_tokens.weight", DType::bf16, {s.vocab, s.hidden}},
                                  {"lm_head.weight", DType::bf16, {s.vocab, s.hidden}},
                                  {"model.norm.weight", DType::bf16, {s.hidden}}};
    for (std::int64_t i = 0; i < s.layers; ++i) {
      const std::string p = fmt::format("model.layers.{}.", i);
      specs.push_back({p + "input_layernorm.weight", DType::bf16, {s.hidden}});
      specs.push_back({p + "post_attention_layernorm.weight", DType::bf16, {s.hidden}});
      specs.push_back({p + "self_attn.q_proj.weight", DType::bf16, {s.hidden, s.hidden}});
      specs.push_back({p + "self_attn.k_proj.weight", DType::bf16, {kv, s.hidden}});
      specs.push_back({p + "self_attn.v_proj.weight", DType::bf16, {kv, s.hidden}});
      specs.push_back({p + "self_attn.o_proj.weight", DType::bf16, {s.hidden, s.hidden}});
      specs.push_back({p + "mlp.gate_proj.weight", DType::bf16, {s.ffn, s.hidden}});
      specs.push_back({p + "mlp.up_proj.weight", DType::bf16, {s.ffn, s.hidden}});
      specs.push_back({p + "mlp.down_proj.weight", DType::bf16, {s.hidden, s.ffn}});
    }
    const Json config{{"architectures", Json::array({"LlamaForCausalLM"})},
                      {"model_type", "llama"},
                      {"hidden_size", s.hidden},
                      {"intermediate_size", s.ffn},
                      {"num_hidden_layers", s.layers},
                      {"num_attention_heads", s.heads},
                      {"num_key_value_heads", s.kv_heads},
                      {"vocab_size", s.vocab},
                      {"max_position_embeddings", 2048},
                      {"rms_norm_eps", 1e-5},
                      {"rope_theta", 10000.0},
                      {"tie_word_embeddings", false}};
    std::uint32_t state = 1;
    const Status written = write_checkpoint(
        folder_, config, specs,
        [&](const TensorSpec& spec, const TensorSink& sink) {
          std::int64_t count = 1;
          for (const std::int64_t n : spec.shape) count *= n;
          std::vector<float> values(static_cast<std::size_t>(count));
          for (float& v : values) {
            v = (static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1) * 0.03f;
            if (spec.shape.size() == 1) v += 1;
          }
          std::vector<std::byte> bytes(values.size() * 2);
          info(DType::bf16).from_f32(values.data(), bytes.data(), values.size());
          return sink(bytes);
        },
        "");
    if (!written.ok()) std::abort();
  }
  ~RandomModel() { std::filesystem::remove_all(folder_); }
  RandomModel(const RandomModel&) = delete;
  RandomModel& operator=(const RandomModel&) = delete;

  Decoder decoder(Precision precision) const { return *Decoder::open(*Weights::open(folder_), precision); }

 private:
  std::string folder_;
};

void score(int threads, int repeats) {
  constexpr std::int64_t sequences = 4, length = 256;
  const RandomModel model(kSmall);
  std::vector<std::int32_t> ids;
  for (std::uint32_t i = 0, state = 1; i < sequences * length; ++i)
    ids.push_back(static_cast<std::int32_t>((state = state * 1664525u + 1013904223u) >> 8) % 32000);
  const TokenSet windows(ids, length, "", false);
  for (const Precision precision : {Precision::real, Precision::bf16}) {
    const Decoder decoder = model.decoder(precision);
    const Decoder* const models[] = {&decoder};
    Best best;
    double nll = 0;
    for (int i = -1; i < repeats; ++i) {
      const Clock start;
      nll = 0;
      const Status status = score_windows(models, windows, {}, [&](const ScoredRows& rows) {
        for (std::size_t r = 0; r < rows.targets.size(); ++r)
          nll += negative_log_likelihood(rows.logits[0].row(static_cast<std::int64_t>(r)), rows.targets[r]);
      });
      if (!status.ok()) std::abort();
      if (i >= 0) best.add(start);
    }
    constexpr double tokens = sequences * length;
    fmt::print(
        "{:13} best of {}: {:6.0f} ms, {:7.0f} tokens/s; CPU {:6.3f} s, {:7.0f} tokens/s if all cores were ours; "
        "nll {:.4f}\n",
        precision == Precision::real ? "score f32" : "score bf16", repeats, best.wall * 1e3, tokens / best.wall,
        best.cpu, tokens * threads / best.cpu, nll / (tokens - sequences));
  }
}

void decode(int repeats) {
  const RandomModel model(kLarge);
  const Decoder decoder = model.decoder(Precision::real);
  const double bytes = static_cast<double>(decoder.weights().bytes()) - 2.0 * kLarge.vocab * kLarge.hidden;  // one row
  const std::vector<std::byte> memory(1'000'000'000, std::byte{1});
  KvCache cache(decoder.config(), 256);
  Rows prompt(128, kLarge.hidden), x(1, kLarge.hidden), logits(1, kLarge.vocab);
  if (!decoder.forward(prompt, std::vector<std::int32_t>(128, 7), {1, 128}, &cache).ok()) std::abort();
  Best best;
  double limit = 0;
  for (int i = 0; i < 4 * repeats; ++i) {
    if (i % 4 == 0) limit = std::max(limit, bench::read_gbps(memory));
    const Clock start;
    if (!decoder.forward(x, std::array<std::int32_t, 1>{i}, {1, 1}, &cache).ok()) std::abort();
    decoder.logits(logits, x);
    best.add(start);
  }
  fmt::print(
      "decode        best of {}: {:6.1f} ms a token; {:.1f} GB/s; of CPU time {:.1f} GB/s a core, reading alone {:.1f} "
      "GB/s a core ({:.2f})\n",
      4 * repeats, best.wall * 1e3, bytes / best.wall * 1e-9, bytes / best.cpu * 1e-9, limit,
      bytes / best.cpu * 1e-9 / limit);
}

}  // namespace
}  // namespace fettle::kit

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, repeats = argc > 2 ? std::atoi(argv[2]) : 5;
  const std::string which = argc > 3 ? argv[3] : "";
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
  tbb::task_arena(threads).execute([&] {
    if (which != "decode") fettle::kit::score(threads, repeats);
    if (which != "score") fettle::kit::decode(repeats);
  });
}
