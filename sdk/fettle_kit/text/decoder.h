// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/text/fields.h"
#include "fettle_kit/text/normalizer.h"

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

namespace fettle::kit {

struct BytesOfVisible {};  ///< ByteLevel: all pieces to one text
struct ByteFallback {};    ///< runs of <0xHH> pieces to their text
struct Fuse {};            ///< all pieces to one
struct StripEnds {         ///< up to so many of a character from both ends of each piece
  std::string character;
  std::size_t start = 0, stop = 0;
};
struct SpaceOfMeta {  ///< Metaspace: U+2581 back to space
  std::string replacement;
  bool drop_first = true;  ///< not in the first piece
};
/// One step from pieces towards text, as the decoder of a tokenizer.json lists them (nested sequences are flattened).
using Decoder = std::variant<BytesOfVisible, Replace, ByteFallback, Fuse, StripEnds, SpaceOfMeta>;

/// `json` may be null: no steps. What is not listed above is refused by name.
std::vector<Decoder> read_decoders(const Json& json, const std::string& where, Status& status);

/// The pieces after all steps, joined. Bytes that are no UTF-8 become U+FFFD.
std::string decode_pieces(const std::vector<Decoder>& steps, std::vector<std::string> pieces);

}  // namespace fettle::kit
