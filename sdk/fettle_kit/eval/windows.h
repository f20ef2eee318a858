// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/text/token_set.h"
#include "fettle_kit/text/tokenizer.h"

#include <cstdint>
#include <string_view>

namespace fettle::kit {

/// Cuts a text into windows to score. The whole text is encoded once, without BOS; a window is `length` ids: BOS and
/// length - 1 ids of the text where the tokenizer puts BOS in front of text, else length ids of the text. Windows
/// follow one another without overlap, the rest that fills none is dropped. At most `max_windows`; 0: all. Errors:
/// length < 2, a text shorter than one window.
Result<TokenSet> windows_of_text(const Tokenizer& tokenizer, std::string_view text, std::int64_t length,
                                 std::int64_t max_windows);

/// UTF-8 bytes a token stands for: what it adds to the text, not how the tokenizer spells it. 0 for special tokens.
std::int64_t bytes_of_token(const Tokenizer& tokenizer, std::int32_t id);

}  // namespace fettle::kit
