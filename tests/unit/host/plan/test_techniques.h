// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/plugin.h"

#include "host/plan/plan.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// A catalogue of techniques that only declare and foretell, for tests of planning: no plugin is loaded, nothing runs.

namespace fettle::host::test {

struct Idle {
  template <class Params>
  static Status run(const Params&, Context&) {
    return {};
  }
};

struct MakeTokens : Idle {
  struct Params {
    Count tokens{0};
    std::int64_t length = 512;
  };
  static Description<Params> describe() {
    return Description<Params>("data.tokens", "Cut text into rows of tokens.")
        .input("text", "text", "what to cut")
        .input("tokenizer", "model", "whose tokenizer")
        .output("tokens", "tokens", "rows")
        .param("tokens", &Params::tokens, "how many; 0: all", at_least(0, "tokens"))
        .param("length", &Params::length, "tokens of a row", in_range(2, 131072, "tokens"));
  }
  static Status estimate(const Params&, const Inputs& in, Estimate& out) {
    out.attribute("tokens", "tokenizer", std::string(in.at("tokenizer").attribute("tokenizer")));
    return {};
  }
};

struct Prune : Idle {
  struct Params {
    double sparsity = 0.5;
    std::optional<std::string> pattern;
    std::vector<std::string> skip;
    std::vector<std::pair<std::string, double>> overrides;
    Bytes buffer{1 << 20};
    Seconds patience{60};
    bool per_row = false;
  };
  static Description<Params> describe() {
    return Description<Params>("prune.magnitude", "Zero the smallest weights.")
        .input("model", "model", "what to prune", "layout=hf; weights=f32|f16|bf16|mixed")
        .optional_input("calibration", "tokens", "rows to run", "tokenizer=@model")
        .output("model", "model", "the sparse model")
        .output("mask", "mask", "what was kept")
        .param("sparsity", &Params::sparsity, "share of weights to remove", in_range(0, 0.95, "share of weights"))
        .param("pattern", &Params::pattern, "N:M")
        .param("skip", &Params::skip, "globs of tensors")
        .param("overrides", &Params::overrides, "sparsity by glob", in_range(0, 1))
        .param("buffer", &Params::buffer, "read buffer")
        .param("patience", &Params::patience, "how long to wait")
        .param("per_row", &Params::per_row, "compare inside a row");
  }
  static Status validate(const Params& p) {
    if (p.pattern && p.sparsity != 0.5)
      return {Code::invalid_argument, "contradicts 'pattern', which fixes the share", "sparsity"};
    return {};
  }
  static Status estimate(const Params& p, const Inputs& in, Estimate& out) {
    out.memory(1e9).like("model", in.at("model")).attribute("model", "sparsity", p.pattern.value_or("0.5"));
    return {};
  }
};

struct Quantize : Idle {
  struct Params {
    std::string type;
  };
  static Description<Params> describe() {
    return Description<Params>("quantize.gguf", "Write a GGUF file.")
        .input("model", "model", "what to quantize", "layout=hf")
        .output("model", "model", "the file")
        .param("type", &Params::type, required, "type of the weights", one_of({"Q4_K_M", "Q8_0", "F16"}));
  }
  static Status estimate(const Params& p, const Inputs& in, Estimate& out) {
    if (in.at("model").attribute("sparsity") == "4:8")
      return {Code::unsupported, "4:8 sparsity has no GGUF form", "model"};
    out.like("model", in.at("model")).attribute("model", "layout", "gguf");
    out.attribute("model", "weights", "gguf." + p.type);
    return {};
  }
};

struct Measure : Idle {
  struct Params {
    std::int64_t length = 512;
  };
  static Description<Params> describe() {
    return Description<Params>("eval.perplexity", "Measure perplexity.")
        .input("model", "model", "what to measure")
        .input("data", "tokens", "on what", "tokenizer=@model")
        .param("length", &Params::length, "tokens of a window", at_least(2));
  }
};

struct Table : Idle {
  using Params = NoParams;
  static Description<Params> describe() {
    return Description<Params>("report.table", "Compare several models.")
        .list_input("models", "model", "what to compare")
        .output("table", "file", "the table");
  }
};

struct CountWords : Idle {
  struct Params {
    Path words;
    std::string note = "none";
  };
  static Description<Params> describe() {
    return Description<Params>("text.count", "Count words.")
        .input("text", "text", "what to count in")
        .output("text", "text", "the same text")
        .param("words", &Params::words, "a file of words")
        .param("note", &Params::note, "a remark");
  }
};

struct NeedsGpu : Idle {
  using Params = NoParams;
  static Description<Params> describe() {
    return Description<Params>("train.gpu", "Wants what no host has.")
        .needs("fettle.gpu/1")
        .output("model", "model", "m");
  }
};

template <class... T>
std::vector<const fettle_technique*> tables() {
  return {fettle::detail::Adapter<T>::table()...};
}

inline const Catalogue& catalogue() {
  static const Plugin plugin = [] {
    Plugin p;
    p.path = "/plugins/test.so";
    p.digest = "sha256:0123";
    return p;
  }();
  static const std::vector<Technique> techniques = [] {
    std::vector<Technique> all;
    for (const fettle_technique* t : tables<MakeTokens, Prune, Quantize, Measure, Table, CountWords, NeedsGpu>())
      all.push_back({t, &plugin});
    std::sort(all.begin(), all.end(), [](const Technique& a, const Technique& b) { return a.id() < b.id(); });
    return all;
  }();
  static const Catalogue c = [] {
    Catalogue made;
    for (const Technique& t : techniques) made.techniques.push_back(&t);
    made.refusals.push_back({"/plugins/prune_old.so", "built for plugin interface 0.0, this program offers 0.1"});
    made.services.emplace_back("fettle.metrics/1");
    return made;
  }();
  return c;
}

inline const Technique& technique(std::string_view id) {
  for (const Technique* t : catalogue().techniques)
    if (t->id() == id) return *t;
  std::abort();
}

}  // namespace fettle::host::test
