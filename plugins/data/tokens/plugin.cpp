// SPDX-License-Identifier: Apache-2.0
#include "fettle/plugin.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/tensor/philox.h"
#include "fettle_kit/text/token_set.h"
#include "fettle_kit/text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;
using fettle::Code;
using fettle::Status;
using fettle::kit::grouped;
using fettle::kit::Tokenizer;

fettle::Result<Tokenizer> open_tokenizer(const std::string& folder) {
  if (!fs::exists(fs::path(folder) / "tokenizer.json")) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error))
      if (entry.path().extension() == ".gguf")
        return Status(Code::unsupported,
                      "a GGUF model without tokenizer.json; connect the Hugging Face checkpoint it was made from",
                      "tokenizer");
  }
  return Tokenizer::open(folder);
}

/// Which windows to take, of `all` that follow one another in the text.
std::vector<std::int64_t> chosen(std::int64_t count, std::int64_t all, bool random, std::uint64_t seed) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(random ? all : count));
  std::iota(windows.begin(), windows.end(), std::int64_t{0});
  if (!random) return windows;
  for (std::int64_t i = 0; i < count; ++i) {  // the first steps of a Fisher-Yates shuffle
    const auto left = static_cast<std::uint64_t>(all - i);
    const auto j = i + static_cast<std::int64_t>(fettle::kit::philox_below(seed, static_cast<std::uint64_t>(i), left));
    std::swap(windows[static_cast<std::size_t>(i)], windows[static_cast<std::size_t>(j)]);
  }
  windows.resize(static_cast<std::size_t>(count));
  return windows;
}

class DataTokens {
 public:
  struct Params {
    std::int64_t length = 512;
    std::optional<std::int64_t> sequences;
    std::optional<fettle::Count> tokens;
    std::string bos = "auto";
    std::string sampling = "sequential";

    /// Nothing: all that fit.
    std::optional<std::int64_t> wanted() const {
      if (tokens) return std::max<std::int64_t>(1, tokens->value / length);
      return sequences;
    }
  };

  static fettle::Description<Params> describe() {
    using fettle::at_least, fettle::in_range, fettle::one_of;
    return fettle::Description<Params>("data.tokens", "Cut text into sequences of token ids of one length.")
        .epoch(1)
        .version("1.0")
        .input("text", "text", "UTF-8 text")
        .input("tokenizer", "model", "the model whose tokenizer.json makes the ids")
        .output("tokens", "tokens", "sequences of equal length")
        .param("length", &Params::length, "length of a sequence, BOS included", in_range(2, 1 << 24, "tokens"))
        .param("sequences", &Params::sequences, "how many; default: all that fit", in_range(1, 1e9, "sequences"))
        .param("tokens", &Params::tokens, "instead of sequences: as many as hold at most so many tokens, at least one",
               in_range(1, 1e12, "tokens"))
        .param("bos", &Params::bos, "BOS in front of each sequence; auto: if the tokenizer's template puts it there",
               one_of({"auto", "always", "never"}))
        .param("sampling", &Params::sampling,
               "sequential: from the start of the text; random: from anywhere, by the step's seed, none twice",
               one_of({"sequential", "random"}));
  }

  static Status validate(const Params& p) {
    if (p.sequences && p.tokens)
      return {Code::invalid_argument, "'sequences' and 'tokens' say the same thing twice; give one of them", "tokens"};
    return {};
  }

  static Status estimate(const Params& p, const fettle::Inputs& in, fettle::Estimate& e) {
    // The text, maybe a normalized copy, and at worst an id of four bytes for each byte of it.
    e.memory(6 * in.at("text").number("bytes") + 64e6).max_threads(1);
    if (const auto tokenizer = in.at("tokenizer").attribute("tokenizer"); !tokenizer.empty())
      e.attribute("tokens", "tokenizer", std::string(tokenizer));
    e.attribute("tokens", "length", std::to_string(p.length));
    if (const auto wanted = p.wanted()) {
      e.attribute("tokens", "sequences", std::to_string(*wanted));
      e.disk(4.0 * static_cast<double>(*wanted) * static_cast<double>(p.length));
    }
    return {};
  }

  static Status run(const Params& p, fettle::Context& context) {
    FETTLE_ASSIGN(const Tokenizer tokenizer, open_tokenizer(context.inputs.at("tokenizer").path()));
    const bool bos = p.bos == "always" || (p.bos == "auto" && tokenizer.adds_bos());
    if (bos && !tokenizer.bos())
      return {Code::invalid_argument, "this tokenizer has no BOS token; choose auto or never", "bos"};
    FETTLE_ASSIGN(const std::string text, fettle::kit::read_text(context.inputs.at("text").path()));
    if (text.empty()) return {Code::invalid_argument, "the text is empty", "text"};

    const bool random = p.sampling == "random";
    const std::int64_t taken = p.length - (bos ? 1 : 0);  // tokens of text in a sequence
    const std::optional<std::int64_t> wanted = p.wanted();
    const std::int64_t needed = wanted.value_or(1) * taken;
    Tokenizer::EncodeOptions options;
    options.cancelled = [&] { return context.cancelled(); };
    if (wanted && !random) options.max_tokens = static_cast<std::size_t>(needed);
    FETTLE_ASSIGN(const std::vector<std::int32_t> ids, tokenizer.try_encode(text, options));
    const auto found = static_cast<std::int64_t>(ids.size());
    if (found < needed)
      return {Code::invalid_argument,
              fmt::format("the text has {} tokens, but {} sequence{} of {} need {}; give more text, or ask for less",
                          grouped(ids.size()), grouped(static_cast<std::uint64_t>(wanted.value_or(1))),
                          wanted.value_or(1) == 1 ? "" : "s", grouped(static_cast<std::uint64_t>(p.length)),
                          grouped(static_cast<std::uint64_t>(needed))),
              "text"};

    const std::int64_t all = found / taken, count = wanted.value_or(all);
    std::vector<std::int32_t> rows;
    rows.reserve(static_cast<std::size_t>(count * p.length));
    for (const std::int64_t window : chosen(count, all, random, context.seed())) {
      if (bos) rows.push_back(*tokenizer.bos());
      rows.insert(rows.end(), ids.begin() + window * taken, ids.begin() + (window + 1) * taken);
    }
    const auto bytes =
        static_cast<double>(ids.size() == options.max_tokens ? tokenizer.decode(ids).size() : text.size());
    context.metric("tokens", static_cast<double>(rows.size()), "tokens");
    context.metric("sequences", static_cast<double>(count), "sequences");
    context.metric("bytes_per_token", bytes / static_cast<double>(found), "bytes");
    return fettle::kit::TokenSet(std::move(rows), p.length, tokenizer.digest(), bos).save(context.output("tokens"));
  }
};

}  // namespace

FETTLE_PLUGIN("fettle-data-tokens", "0.1.0", "Fettle", "Apache-2.0", DataTokens)
