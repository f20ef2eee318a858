// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/added_tokens.h"

#include "fettle_kit/text/unicode.h"

#include <algorithm>

namespace fettle::kit {
namespace {

bool word_before(std::string_view text, std::size_t at) {
  return at > 0 && unicode::is_word(unicode::code_point(text, unicode::start_before(text, at)));
}
bool word_at(std::string_view text, std::size_t at) {
  return at < text.size() && unicode::is_word(unicode::code_point(text, at));
}

}  // namespace

void AddedTokenCutter::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  starts_[static_cast<unsigned char>(pattern[0])] = true;
  std::size_t node = 0;
  for (const char c : pattern) {
    const auto [it, is_new] = nodes_[node].next.emplace(c, nodes_.size());
    node = it->second;
    if (is_new) nodes_.emplace_back();
  }
  if (nodes_[node].token >= 0) return;  // of two tokens with one pattern the first holds
  nodes_[node].token = static_cast<int>(tokens_.size());
  tokens_.push_back(token);
}

bool AddedTokenCutter::cut(std::string_view text,
                           const std::function<bool(std::size_t, std::size_t, const AddedToken*)>& visit) const {
  std::size_t done = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (!starts_[static_cast<unsigned char>(text[i])]) {
      ++i;
      continue;
    }
    const AddedToken* token = nullptr;
    std::size_t end = i;
    for (std::size_t node = 0, k = i; k < text.size(); ++k) {
      const auto it = nodes_[node].next.find(text[k]);
      if (it == nodes_[node].next.end()) break;
      node = it->second;
      if (nodes_[node].token < 0) continue;
      token = &tokens_[static_cast<std::size_t>(nodes_[node].token)];
      end = k + 1;
    }
    if (!token) {
      ++i;
      continue;
    }
    std::size_t begin = i;
    i = end;
    if (token->single_word && (word_before(text, begin) || word_at(text, end))) continue;
    if (token->lstrip) {
      std::size_t space = begin;
      while (space > 0 && unicode::is_white_space(unicode::code_point(text, unicode::start_before(text, space))))
        space = unicode::start_before(text, space);
      begin = std::max(space, done);
    }
    if (token->rstrip)
      while (end < text.size() && unicode::is_white_space(unicode::code_point(text, end)))
        end += unicode::length_of(text[end]);
    if (done < begin && !visit(done, begin, nullptr)) return false;
    if (!visit(begin, end, token)) return false;
    done = end;
  }
  return done >= text.size() || visit(done, text.size(), nullptr);
}

}  // namespace fettle::kit
