// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fettle::kit {

/// An entry of added_tokens: text that becomes one id wherever it stands, before the model sees anything.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space after it
  bool normalized = false;   ///< looked for in the normalized text instead of the text as given
  bool special = false;
};

/// Cuts a text at the added tokens in it: leftmost first, the longest of those that start there. [any thread]
class AddedTokenCutter {
 public:
  static constexpr std::size_t longest_token = 1024;  // bounds the work a hostile file can cause per byte of text

  /// `pattern` is what to look for: the token's content, or that normalized. Empty patterns are never found.
  void add(std::string_view pattern, const AddedToken& token);

  /// Calls visit(begin, end, token) for consecutive ranges that cover the text (a token may reach back into white space
  /// that another took); token is null for the text between. visit returns false to stop; then this returns false.
  bool cut(std::string_view text, const std::function<bool(std::size_t, std::size_t, const AddedToken*)>& visit) const;

 private:
  struct Node {
    std::unordered_map<char, std::size_t> next;
    int token = -1;
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> starts_{};
  std::vector<AddedToken> tokens_;
};

}  // namespace fettle::kit
