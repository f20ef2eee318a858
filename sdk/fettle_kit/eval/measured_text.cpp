// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/eval/measured_text.h"

#include "fettle_kit/eval/windows.h"

#include <fmt/format.h>

#include <algorithm>

namespace fettle::kit {
namespace {

constexpr std::int64_t usual_length = 512;

Result<TokenSet> given_tokens(const Input& input, std::int64_t windows, const Tokenizer* tokenizer) {
  FETTLE_ASSIGN(TokenSet tokens, TokenSet::open(input.path()));
  if (tokenizer && tokens.tokenizer_digest() != tokenizer->digest())
    return Status(
        Code::invalid_argument,
        fmt::format("the tokens were made with tokenizer {}, but the model's is {}; make them with the model's",
                    tokens.tokenizer_digest(), tokenizer->digest()),
        "tokens");
  if (tokens.sequences() == 0) return Status(Code::invalid_argument, "there are no tokens to measure on", "tokens");
  if (windows == 0 || windows >= tokens.sequences()) return tokens;
  const auto kept = tokens.ids().first(static_cast<std::size_t>(windows * tokens.length()));
  return TokenSet({kept.begin(), kept.end()}, tokens.length(), tokens.tokenizer_digest(), tokens.bos());
}

}  // namespace

Status check_measured_text(const Inputs& inputs, const WindowChoice& choice) {
  const bool text = inputs.find("text").has_value(), tokens = inputs.find("tokens").has_value();
  if (!text && !tokens)
    return {Code::invalid_argument, "connect port 'text' or port 'tokens': there is nothing to measure on", "text"};
  if (text && tokens)
    return {Code::invalid_argument, "ports 'text' and 'tokens' are both connected; leave one away", "tokens"};
  if (tokens && choice.length)
    return {Code::invalid_argument, "'length' is for port 'text'; sequences of tokens keep the length they have",
            "length"};
  return {};
}

Result<TokenSet> measured_windows(const Inputs& inputs, const WindowChoice& choice, std::int64_t context,
                                  const Tokenizer* tokenizer) {
  FETTLE_TRY(check_measured_text(inputs, choice));
  if (const auto tokens = inputs.find("tokens")) return given_tokens(*tokens, choice.windows, tokenizer);
  FETTLE_ASSIGN(const std::string text, read_text(inputs.at("text").path()));
  return windows_of_text(*tokenizer, text, choice.length.value_or(std::min(context, usual_length)), choice.windows);
}

std::int64_t window_length(const Inputs& inputs, const WindowChoice& choice, double context) {
  const auto usual = static_cast<std::int64_t>(std::min<double>(context, usual_length));
  const auto tokens = inputs.find("tokens");
  const auto length =
      tokens ? static_cast<std::int64_t>(tokens->number("length", usual_length)) : choice.length.value_or(usual);
  return std::max<std::int64_t>(1, length);
}

double estimated_tokens(const Inputs& inputs, const WindowChoice& choice, double context) {
  const auto tokens = inputs.find("tokens");
  const auto length = static_cast<double>(window_length(inputs, choice, context));
  const double all = tokens ? tokens->number("sequences") * length : inputs.at("text").number("bytes") / 3;
  return choice.windows > 0 ? std::min(all, static_cast<double>(choice.windows) * length) : all;
}

}  // namespace fettle::kit
