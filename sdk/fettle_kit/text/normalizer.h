// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/text/fields.h"
#include "fettle_kit/text/needle.h"
#include "fettle_kit/text/unicode.h"

#include <string>
#include <variant>
#include <vector>

namespace fettle::kit {

struct Prepend {
  std::string text;
};
struct Replace {
  Needle needle;
  std::string content;
};
struct StripSpace {
  bool left = true, right = true;
};
struct StripAccents {};
struct Lowercase {};
/// One step from text to text, as the normalizer of a tokenizer.json lists them (nested sequences are flattened).
using Normalizer = std::variant<Prepend, Replace, unicode::Form, Lowercase, StripSpace, StripAccents>;

/// `json` may be null: no steps. What is not listed above is refused by name.
std::vector<Normalizer> read_normalizers(const Json& json, const std::string& where, Status& status);

/// Applies the steps in order. False if a pattern is too hard for this text.
[[nodiscard]] bool normalize(const std::vector<Normalizer>& steps, std::string& text);

/// Replaces every match. False if a pattern is too hard for this text.
[[nodiscard]] bool replace_all(const Replace& step, std::string& text);
/// Reads a Replace step. `growth` is multiplied by how much longer it can make a text: chains of them could make a
/// short text fill the memory, so more than 256-fold is refused.
Replace read_replace(Fields& fields, std::size_t& growth);

}  // namespace fettle::kit
