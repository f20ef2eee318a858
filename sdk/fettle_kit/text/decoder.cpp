// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/decoder.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/text/byte_level.h"
#include "fettle_kit/text/unicode.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cctype>
#include <optional>
#include <string_view>
#include <utility>

namespace fettle::kit {
namespace {

constexpr std::size_t most_steps = 64;

void read_into(std::vector<Decoder>& steps, const Json& json, const std::string& where, std::size_t& growth,
               Status& status) {
  Fields fields(json, where, status);
  const std::string type = fields.string("type");
  if (!status.ok()) return;
  const auto one_character = [&](const char* key, const std::string& text) {
    if (text.empty() || text.size() != unicode::length_of(text[0]))
      fields.fail(Code::corrupt_data, fmt::format("'{}' is not one character", key));
  };
  if (type == "Sequence") {
    std::size_t i = 0;
    for (const Json& item : fields.array("decoders")) {
      read_into(steps, item, fmt::format("{}: decoders[{}]", where, i++), growth, status);
      if (!status.ok()) return;
    }
  } else if (type == "ByteLevel") {
    steps.emplace_back(BytesOfVisible{});
  } else if (type == "Replace") {
    steps.emplace_back(read_replace(fields, growth));
  } else if (type == "ByteFallback") {
    steps.emplace_back(ByteFallback{});
  } else if (type == "Fuse") {
    steps.emplace_back(Fuse{});
  } else if (type == "Strip") {
    StripEnds step;
    step.character = fields.string("content");
    one_character("content", step.character);
    step.start = static_cast<std::size_t>(fields.integer("start", 0, INT32_MAX));
    step.stop = static_cast<std::size_t>(fields.integer("stop", 0, INT32_MAX));
    steps.emplace_back(std::move(step));
  } else if (type == "Metaspace") {
    SpaceOfMeta step;
    step.replacement = fields.string("replacement", "\u2581");
    one_character("replacement", step.replacement);
    step.drop_first =
        fields.string("prepend_scheme", fields.flag("add_prefix_space", true) ? "always" : "never") != "never";
    steps.emplace_back(std::move(step));
  } else {
    fields.fail(Code::unsupported, fmt::format("type {} is not supported, expected Sequence, ByteLevel, Replace, "
                                               "ByteFallback, Fuse, Strip or Metaspace",
                                               in_quotes(type)));
  }
  if (steps.size() > most_steps) fields.fail(Code::unsupported, fmt::format("more than {} steps", most_steps));
}

using Pieces = std::vector<std::string>;

std::optional<char> fallback_byte(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return std::nullopt;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  const int high = digit(piece[3]), low = digit(piece[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

std::string joined(const Pieces& pieces) {
  std::string all;
  for (const std::string& piece : pieces) all += piece;
  return all;
}

struct Apply {
  Pieces& pieces;

  void operator()(BytesOfVisible) const {
    std::string bytes;
    for (const std::string& piece : pieces) append_bytes(bytes, piece);
    pieces.assign(1, unicode::replace_invalid_utf8(bytes));
  }
  void operator()(const Replace& step) const {
    for (std::string& piece : pieces) {
      std::string replaced = piece;
      if (replace_all(step, replaced)) piece = std::move(replaced);  // a pattern too hard for a piece leaves it
    }
  }
  void operator()(ByteFallback) const {
    Pieces out;
    std::string run;
    const auto flush = [&] {
      if (is_utf8(run)) {
        if (!run.empty()) out.push_back(run);
      } else {
        out.insert(out.end(), run.size(), "\uFFFD");
      }
      run.clear();
    };
    for (std::string& piece : pieces) {
      if (const auto byte = fallback_byte(piece)) {
        run += *byte;
        continue;
      }
      flush();
      out.push_back(std::move(piece));
    }
    flush();
    pieces = std::move(out);
  }
  void operator()(Fuse) const { pieces.assign(1, joined(pieces)); }
  void operator()(const StripEnds& step) const {
    for (std::string& piece : pieces) {
      const std::string_view c = step.character;
      std::string_view rest = piece;
      for (std::size_t i = 0; i < step.start && rest.substr(0, c.size()) == c; ++i) rest.remove_prefix(c.size());
      for (std::size_t i = 0; i < step.stop && rest.size() >= c.size() && rest.substr(rest.size() - c.size()) == c; ++i)
        rest.remove_suffix(c.size());
      piece = std::string(rest);
    }
  }
  void operator()(const SpaceOfMeta& step) const {
    bool drop = step.drop_first;
    for (std::string& piece : pieces) {
      std::string out;
      for (std::size_t i = 0; i < piece.size();) {
        const std::size_t n = unicode::length_of(piece[i]);
        if (std::string_view(piece).substr(i, n) != step.replacement)
          out.append(piece, i, n);
        else if (!drop)
          out += ' ';
        i += n;
      }
      piece = std::move(out);
      drop = false;
    }
  }
};

}  // namespace

std::vector<Decoder> read_decoders(const Json& json, const std::string& where, Status& status) {
  std::vector<Decoder> steps;
  std::size_t growth = 1;
  if (!json.is_null()) read_into(steps, json, where, growth, status);
  return steps;
}

std::string decode_pieces(const std::vector<Decoder>& steps, std::vector<std::string> pieces) {
  for (const Decoder& step : steps) std::visit(Apply{pieces}, step);
  return joined(pieces);
}

}  // namespace fettle::kit
