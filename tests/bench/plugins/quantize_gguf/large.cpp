// SPDX-License-Identifier: Apache-2.0
// Seconds and private memory of quantize.gguf on a checkpoint of real size.
//
//   quantize_gguf_large make FOLDER [1b|8b] [f16|bf16]         writes random weights of the shape of Llama 3.2 1B
//   or 3.1
//                                                              8B, and an importance matrix, FOLDER/imatrix.gguf
//   quantize_gguf_large run FOLDER TYPE [THREADS] [weighted]   quantizes it, from the page cache if it fits; weighted:
//                                                              with the importance matrix
//
// Output goes to TMPDIR.

#include "fettle_kit/io/checkpoint.h"
#include "fettle_kit/io/gguf.h"
#include "fettle_kit/model/gguf_layout.h"

#include "bench/plugins/private_memory.h"
#include "plugins/harness.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

namespace {

using namespace fettle;
using namespace fettle::kit;

struct Shape {
  std::int64_t hidden, ffn, layers, heads, kv_heads, head_dim, vocab;
  bool tied;
};
constexpr Shape k1b{2048, 8192, 16, 32, 8, 64, 128256, true}, k8b{4096, 14336, 32, 32, 8, 128, 128256, false};

std::vector<TensorSpec> specs_of(const Shape& s, DType type) {
  std::vector<TensorSpec> specs{{"model.embed_tokens.weight", type, {s.vocab, s.hidden}},
                                {"model.norm.weight", type, {s.hidden}}};
  if (!s.tied) specs.push_back({"lm_head.weight", type, {s.vocab, s.hidden}});
  const std::int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  for (std::int64_t i = 0; i < s.layers; ++i) {
    const std::string p = fmt::format("model.layers.{}.", i);
    specs.push_back({p + "input_layernorm.weight", type, {s.hidden}});
    specs.push_back({p + "post_attention_layernorm.weight", type, {s.hidden}});
    specs.push_back({p + "self_attn.q_proj.weight", type, {q, s.hidden}});
    specs.push_back({p + "self_attn.k_proj.weight", type, {kv, s.hidden}});
    specs.push_back({p + "self_attn.v_proj.weight", type, {kv, s.hidden}});
    specs.push_back({p + "self_attn.o_proj.weight", type, {s.hidden, q}});
    specs.push_back({p + "mlp.gate_proj.weight", type, {s.ffn, s.hidden}});
    specs.push_back({p + "mlp.up_proj.weight", type, {s.ffn, s.hidden}});
    specs.push_back({p + "mlp.down_proj.weight", type, {s.hidden, s.ffn}});
  }
  return specs;
}

/// An importance matrix for all matrices of the layers: of no meaning, but no column is like the next.
Status make_importance(const std::string& file, const Shape& s) {
  std::vector<TensorSpec> tensors;
  std::vector<std::vector<float>> values;
  for (const TensorSpec& spec : specs_of(s, DType::bf16)) {
    if (spec.shape.size() != 2 || !spec.name.starts_with("model.layers.")) continue;
    const std::string name = gguf_name("llama", spec.name);
    std::vector<float> sums(static_cast<std::size_t>(spec.shape[1]));
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = static_cast<float>(1 + i * 7 % 23);
    tensors.push_back({name + ".in_sum2", DType::f32, {spec.shape[1]}});
    values.push_back(std::move(sums));
    tensors.push_back({name + ".counts", DType::f32, {1}});
    values.push_back({8.0f});
  }
  FETTLE_ASSIGN(GgufWriter writer, GgufWriter::create(file,
                                                      {{"general.type", std::string("imatrix")},
                                                       {"imatrix.datasets", std::vector<std::string>{"none"}},
                                                       {"imatrix.chunk_count", std::uint32_t{1}},
                                                       {"imatrix.chunk_size", std::uint32_t{8}}},
                                                      tensors));
  for (std::size_t i = 0; i < tensors.size(); ++i)
    FETTLE_TRY(writer.append(tensors[i].name, std::as_bytes(std::span(values[i]))));
  return writer.finish();
}

/// Nearly normal weights of deviation 0.02: the sum of four bytes, 2^20 different ones, at another place in each
/// tensor.
Status make(const std::string& folder, const Shape& s, DType type) {
  std::vector<std::byte> pool;
  std::uint64_t state = 1;
  std::vector<float> values(1 << 20);
  for (float& v : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    int sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<int>(state >> (32 + 8 * i) & 255);
    v = static_cast<float>(sum - 510) * (0.02f / 148);
  }
  pool.resize(bytes_of(type, values.size()));
  info(type).from_f32(values.data(), pool.data(), values.size());
  const TensorSource source = [&](const TensorSpec& spec, const TensorSink& sink) -> Status {
    std::uint64_t left = 1;
    for (const std::int64_t n : spec.shape) left *= static_cast<std::uint64_t>(n);
    left = bytes_of(spec.dtype, left);
    std::size_t at = std::hash<std::string>()(spec.name) % (pool.size() / 2) * 2;
    while (left > 0) {
      const std::size_t part = std::min<std::uint64_t>(left, pool.size() - at);
      FETTLE_TRY(sink(std::span(pool).subspan(at, part)));
      left -= part;
      at = 0;
    }
    return {};
  };
  const Json config{{"architectures", Json::array({"LlamaForCausalLM"})},
                    {"model_type", "llama"},
                    {"hidden_size", s.hidden},
                    {"intermediate_size", s.ffn},
                    {"num_hidden_layers", s.layers},
                    {"num_attention_heads", s.heads},
                    {"num_key_value_heads", s.kv_heads},
                    {"head_dim", s.head_dim},
                    {"vocab_size", s.vocab},
                    {"max_position_embeddings", 8192},
                    {"rms_norm_eps", 1e-5},
                    {"rope_theta", 500000.0},
                    {"tie_word_embeddings", s.tied}};
  FETTLE_TRY(write_checkpoint(folder, config, specs_of(s, type), source, ""));
  std::ofstream(folder + "/tokenizer.json")
      << R"({"added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "use_regex": true}, "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})";
  return make_importance(folder + "/imatrix.gguf", s);
}

double cpu_seconds(bool system) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const timeval& t = system ? usage.ru_stime : usage.ru_utime;
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
}

int run(const std::string& folder, const std::string& type, unsigned threads, bool weighted) {
  const bench::PrivateMemory memory;
  const double user = cpu_seconds(false), system = cpu_seconds(true);
  const auto start = std::chrono::steady_clock::now();
  test::Step quantize("quantize_gguf", "quantize.gguf");
  quantize.input("model", "model", folder, {{"layout", "hf"}}).param("type", type).threads(threads);
  if (weighted) quantize.input("imatrix", "stats", folder + "/imatrix.gguf");
  const test::StepResult step = quantize.run();
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!step.ok()) {
    fmt::print(stderr, "{}\n", step.message);
    return 1;
  }
  fmt::print(
      "{:<8}{} {} threads: {:6.2f} s, CPU {:6.2f} s user {:5.2f} s system, private {:.0f} MiB, {:.3f} bits a weight\n",
      type, weighted ? " weighted" : "", threads, wall, cpu_seconds(false) - user, cpu_seconds(true) - system,
      memory.peak(), step.value("bits_per_weight"));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto has = [&](const char* word) { return std::find(words.begin(), words.end(), word) != words.end(); };
  if (words.size() >= 2 && words[0] == "make") {
    const Status status = make(words[1], has("8b") ? k8b : k1b, has("bf16") ? DType::bf16 : DType::f16);
    if (!status.ok()) fmt::print(stderr, "{}\n", status.message());
    return status.ok() ? 0 : 1;
  }
  if (words.size() >= 3 && words[0] == "run")
    return run(words[1], words[2],
               words.size() > 3 && words[3] != "weighted" ? static_cast<unsigned>(std::stoi(words[3])) : 2,
               has("weighted"));
  fmt::print(stderr, "usage: see the head of large.cpp\n");
  return 2;
}
