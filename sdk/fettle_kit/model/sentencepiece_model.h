// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstdint>
#include <string>
#include <vector>

namespace fettle::kit {

/// The vocabulary of a SentencePiece tokenizer.model: what GGUF files hold of it. The rest of the file is skipped.
struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    std::int32_t type = 1;  ///< 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte: as in GGUF
  };
  std::vector<Piece> pieces;     ///< by id
  bool add_dummy_prefix = true;  ///< a space goes before the text

  /// corrupt_data if it is no protocol buffer of that form.
  static Result<SentencePieceModel> open(const std::string& path);
};

}  // namespace fettle::kit
