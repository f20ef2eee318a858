// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "fettle_kit/text/pattern.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <cstdint>
#include <new>
#include <utility>

namespace fettle::kit {
namespace {

constexpr std::size_t longest_pattern = 64u << 10;
constexpr std::uint32_t match_limit =
    20'000'000;  // steps of one match: about a second, and linear patterns over 1 MB of text fit
constexpr std::size_t largest_jit_stack = 64u << 20;

// PCRE2's own \s and \w differ from the Unicode properties (U+180E; marks and connectors), so both are spelled out.
constexpr std::string_view white_space =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

Status refused(std::string_view what, std::size_t at) {
  return {Code::unsupported, fmt::format("{} at byte {} of the pattern is not supported", what, at + 1)};
}

/// Rewrites the dialect of tokenizer.json into PCRE2's, or says what cannot be.
Result<std::string> translate(std::string_view in) {
  std::string out;
  bool in_class = false;
  std::size_t class_start = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const char c = in[i];
    const auto next = [&](std::size_t k) { return i + k < in.size() ? in[i + k] : '\0'; };
    if (c == '\\') {
      const char e = next(1);
      ++i;
      switch (e) {
        case 's':
          out += in_class ? std::string(white_space) : fmt::format("[{}]", white_space);
          break;
        case 'w':
          out += in_class ? std::string(word) : fmt::format("[{}]", word);
          break;
        case 'S':
          out += in_class ? R"(\P{White_Space})" : fmt::format("[^{}]", white_space);
          break;
        case 'W':
          if (in_class) return refused("'\\W' inside a class", i - 1);
          out += fmt::format("[^{}]", word);
          break;
        case 'd':
        case 'D':
        case 'p':
        case 'P':
        case 'r':
        case 'n':
        case 't':
        case 'f':
        case 'x':
          out += '\\';
          out += e;
          if (next(1) == '{')  // \p{L}: copied whole, so that its brace is not taken for a repeat's
            for (++i; i < in.size() && (out += in[i], in[i] != '}'); ++i) {
            }
          break;
        case 'u':  // \uHHHH
          if (i + 4 >= in.size()) return refused("an unfinished '\\u'", i - 1);
          out += fmt::format("\\x{{{}}}", in.substr(i + 1, 4));
          i += 4;
          break;
        case '\0':
          return refused("a final backslash", i - 1);
        default:
          if (static_cast<unsigned char>(e) >= 0x80 || (e >= '0' && e <= '9') || (e >= 'a' && e <= 'z') ||
              (e >= 'A' && e <= 'Z'))
            return refused(fmt::format("'\\{}'", static_cast<unsigned char>(e) >= 0x80 ? '?' : e), i - 1);
          out += '\\';
          out += e;
      }
      continue;
    }
    if (in_class) {
      const bool first = i == class_start + 1 || (i == class_start + 2 && in[class_start + 1] == '^');
      if (c == '[') return refused("'[' inside a class", i);
      if (c == '&' && next(1) == '&') return refused("'&&' inside a class", i);
      if (c == ']' && !first) in_class = false;
      out += c;
      continue;
    }
    if (c == '[') {
      in_class = true;
      class_start = i;
    } else if (c == '(' && next(1) == '*') {
      return refused("'(*'", i);
    } else if (c == '(' && next(1) == '?') {
      const std::string_view rest = in.substr(i + 2);
      bool known = false;
      for (const std::string_view start : {":", "=", "!", ">", "<=", "<!", "i:", "i)"})
        known = known || rest.substr(0, start.size()) == start;
      if (!known) return refused("this kind of '(?'", i);
    } else if (c == '}' && next(1) == '+') {
      return refused("'+' after a counted repeat", i + 1);  // possessive in one dialect, a second repeat in the other
    }
    out += c;
  }
  return out;
}

}  // namespace

struct Pattern::Compiled {
  pcre2_code* code = nullptr;
  bool jit = false;
  ~Compiled() { pcre2_code_free(code); }
};

Pattern::Pattern(std::string source, std::unique_ptr<Compiled> compiled)
    : source_(std::move(source)), compiled_(std::move(compiled)) {}
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Result<Pattern> Pattern::compile(const std::string& source) {
  if (source.size() > longest_pattern)
    return Status(Code::unsupported,
                  fmt::format("the pattern has {} bytes, at most {} are supported", source.size(), longest_pattern));
  FETTLE_ASSIGN(const std::string translated, translate(source));
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  auto compiled = std::make_unique<Compiled>();
  int error = 0;
  PCRE2_SIZE at = 0;
  compiled->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, context.get());
  if (!compiled->code) {
    unsigned char text[256];
    pcre2_get_error_message(error, text, sizeof text);
    return Status(Code::corrupt_data, fmt::format("the pattern does not compile: {}", reinterpret_cast<char*>(text)));
  }
  compiled->jit = pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE) == 0;
  return Pattern(source, std::move(compiled));
}

struct PatternSearch::State {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

PatternSearch::PatternSearch(const Pattern& pattern) : pattern_(&pattern), state_(std::make_unique<State>()) {
  state_->data = pcre2_match_data_create(1, nullptr);
  state_->context = pcre2_match_context_create(nullptr);
  if (!state_->data || !state_->context) throw std::bad_alloc();
  pcre2_set_match_limit(state_->context, match_limit);
}
PatternSearch::PatternSearch(PatternSearch&&) noexcept = default;
PatternSearch::~PatternSearch() = default;

PatternSearch::Outcome PatternSearch::find(std::string_view text, std::size_t from, std::size_t* begin,
                                           std::size_t* end) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto match = [&] {
    // The JIT entry point skips the checks of pcre2_match: the text is valid UTF-8 and `from` a code point.
    return pattern_->compiled_->jit ? pcre2_jit_match(pattern_->compiled_->code, subject, text.size(), from, 0,
                                                      state_->data, state_->context)
                                    : pcre2_match(pattern_->compiled_->code, subject, text.size(), from,
                                                  PCRE2_NO_UTF_CHECK, state_->data, state_->context);
  };
  int rc = match();
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !state_->stack) {
    // The default is 32 KiB of the thread's stack; deep backtracking is rare, so the large one comes when needed.
    state_->stack = pcre2_jit_stack_create(32u << 10, largest_jit_stack, nullptr);
    if (!state_->stack) throw std::bad_alloc();
    pcre2_jit_stack_assign(state_->context, nullptr, state_->stack);
    rc = match();
  }
  if (rc == PCRE2_ERROR_NOMATCH) return Outcome::none;
  if (rc < 0) return Outcome::too_hard;
  const PCRE2_SIZE* where = pcre2_get_ovector_pointer(state_->data);
  *begin = where[0];
  *end = where[1];
  return Outcome::found;
}

}  // namespace fettle::kit
