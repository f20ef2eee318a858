// SPDX-License-Identifier: Apache-2.0
// Peak private memory of a step beside what it had estimated.
//
//   step_memory FOLDER perplexity|sparsegpt|gptq|wanda SEQUENCES LENGTH [NAME=VALUE ...] [polls=N]
//
// FOLDER: a checkpoint, made by quantize_gguf_large for one. The tokens are random. NAME=VALUE are parameters of the
// technique, polls=N cancels at the N-th question whether to stop: blocks repeat, two of them show the peak.

#include "fettle_kit/io/model_attributes.h"
#include "fettle_kit/text/token_set.h"

#include "bench/plugins/private_memory.h"
#include "plugins/harness.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

using namespace fettle;

struct Technique {
  const char* plugin;
  const char* id;
  const char* tokens;  ///< port
};
const std::map<std::string, Technique> techniques = {
    {"perplexity", {"eval_perplexity", "eval.perplexity", "tokens"}},
    {"wanda", {"prune_wanda", "prune.wanda", "calibration"}},
    {"sparsegpt", {"prune_sparsegpt", "prune.sparsegpt", "calibration"}},
    {"gptq", {"quantize_gptq", "quantize.gptq", "calibration"}},
};

/// Below 1000, which every vocabulary has.
kit::TokenSet random_tokens(std::int64_t sequences, std::int64_t length) {
  std::vector<std::int32_t> ids;
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < sequences * length; ++i)
    ids.push_back(static_cast<std::int32_t>((state = state * 1664525u + 1013904223u) >> 8) % 1000);
  return {std::move(ids), length, "none", false};
}

int measure(const std::string& folder, const Technique& technique, std::int64_t sequences, std::int64_t length,
            const std::vector<std::string>& words) {
  const auto known = kit::model_attributes(folder);
  if (!known.ok()) return fmt::print(stderr, "{}\n", known.error().message()), 1;
  const std::string tokens = test::temporary_folder();
  if (const Status saved = random_tokens(sequences, length).save(tokens); !saved.ok())
    return fmt::print(stderr, "{}\n", saved.message()), 1;
  test::Step step(technique.plugin, technique.id);
  step.input("model", "model", folder, {known->begin(), known->end()});
  step.input(technique.tokens, "tokens", tokens,
             {{"sequences", std::to_string(sequences)}, {"length", std::to_string(length)}});
  for (const std::string& word : words) {
    const std::string name = word.substr(0, word.find('=')), value = word.substr(word.find('=') + 1);
    if (name == "polls") {
      step.cancel_at_poll(std::strtoull(value.c_str(), nullptr, 10));
    } else {
      const auto json = nlohmann::ordered_json::parse(value, nullptr, false);
      step.param(name, json.is_discarded() ? nlohmann::ordered_json(value) : json);
    }
  }
  const test::StepResult estimate = step.estimate();
  if (!estimate.ok()) return fmt::print(stderr, "{}\n", estimate.message), 1;
  const bench::PrivateMemory memory;
  const test::StepResult result = step.run();
  if (!result.ok() && result.code != FETTLE_CANCELLED) return fmt::print(stderr, "{}\n", result.message), 1;
  const double estimated = static_cast<double>(estimate.estimate.memory_bytes) / (1 << 20);
  fmt::print("{} {} x {}: estimate {:.0f} MiB, peak {:.0f} MiB, {:+.0f} %\n", technique.id, sequences, length,
             estimated, memory.peak(), 100 * (memory.peak() / estimated - 1));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() >= 4 && techniques.contains(words[1]))
    return measure(words[0], techniques.at(words[1]), std::stoll(words[2]), std::stoll(words[3]),
                   {words.begin() + 4, words.end()});
  fmt::print(stderr, "usage: see the head of memory.cpp\n");
  return 2;
}
