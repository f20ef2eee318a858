// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/tokenizer.h"

#include "fettle_kit/io/json.h"
#include "fettle_kit/io/message.h"
#include "fettle_kit/io/output_file.h"
#include "fettle_kit/io/sha256.h"
#include "fettle_kit/text/added_tokens.h"
#include "fettle_kit/text/bpe.h"
#include "fettle_kit/text/byte_level.h"
#include "fettle_kit/text/tokenizer_file.h"
#include "fettle_kit/text/unicode.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <new>
#include <stdexcept>
#include <utility>

namespace fettle::kit {
namespace {

/// SHA-256 over fields with their lengths, so that no two lists of fields run together into the same bytes.
class Digest {
 public:
  Digest& add(std::string_view text) {
    add(static_cast<std::int64_t>(text.size()));
    hash_.update(text);
    return *this;
  }
  Digest& add(std::int64_t number) {
    std::array<unsigned char, 8> bytes{};
    for (std::size_t i = 0; i < 8; ++i)
      bytes[i] = static_cast<unsigned char>(static_cast<std::uint64_t>(number) >> 8 * i);
    hash_.update(bytes.data(), bytes.size());
    return *this;
  }
  std::string text() { return "sha256:" + hash_.hex(); }

 private:
  Sha256 hash_;
};

struct AddToDigest {
  Digest& digest;

  void operator()(const Needle& needle) const {
    digest.add(static_cast<std::int64_t>(needle.index()));
    if (const auto* string = std::get_if<std::string>(&needle)) digest.add(*string);
    if (const auto* pattern = std::get_if<Pattern>(&needle)) digest.add(pattern->source());
    if (const auto* char_class = std::get_if<CharClass>(&needle))
      digest.add(*char_class == &unicode::is_numeric ? 0 : *char_class == &unicode::is_white_space ? 1 : 2);
  }
  void operator()(const Prepend& s) const { digest.add(s.text); }
  void operator()(const Replace& s) const { (*this)(s.needle), digest.add(s.content); }
  void operator()(unicode::Form form) const { digest.add(static_cast<std::int64_t>(form)); }
  void operator()(Lowercase) const {}
  void operator()(const StripSpace& s) const { digest.add(s.left).add(s.right); }
  void operator()(StripAccents) const {}
  void operator()(PrefixSpace) const {}
  void operator()(const Split& s) const {
    (*this)(s.needle), digest.add(static_cast<std::int64_t>(s.behavior)).add(s.invert);
  }
  void operator()(Visible) const {}
  void operator()(const Metaspace& s) const { digest.add(s.replacement).add(static_cast<std::int64_t>(s.prefix)); }

  template <class Step>
  void all(const std::vector<Step>& steps) const {
    digest.add(static_cast<std::int64_t>(steps.size()));
    for (const Step& step : steps) {
      digest.add(static_cast<std::int64_t>(step.index()));
      std::visit(*this, step);
    }
  }
};

bool is_byte_piece(std::string_view text) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return text.size() == 6 && text.substr(0, 3) == "<0x" && hex(text[3]) && hex(text[4]) && text[5] == '>';
}

}  // namespace

struct Tokenizer::Impl {
  Bpe bpe;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  bool visible_words = false;  // the words of pre_tokenizers still have to become visible characters
  std::optional<std::vector<Decoder>> decoders;
  std::vector<TokenInfo> tokens;  // by id; kind unused: none
  std::unordered_map<std::string, std::int32_t> added_ids;
  AddedTokenCutter before_normalizing, after_normalizing;
  std::unordered_map<std::int32_t, std::string> normalized_texts;  // of added tokens looked for after normalizing
  std::vector<std::int32_t> prefix, suffix;
  std::optional<std::int32_t> bos, eos, unk, pad;
  bool byte_level = false;
  std::string digest;

  explicit Impl(Bpe model) : bpe(std::move(model)) {}

  static Result<std::unique_ptr<Impl>> build(TokenizerFile file, const std::string& name);
  Status add(AddedToken token, const std::string& where);
  std::optional<std::int32_t> find(std::string_view text) const;
  void guess_special();
  void name_special(const SpecialTokens& named);
  std::string compute_digest(const TokenizerFile& file) const;
};

Result<std::unique_ptr<Tokenizer::Impl>> Tokenizer::Impl::build(TokenizerFile file, const std::string& name) {
  auto bpe = Bpe::build(std::move(file.model));
  if (!bpe) return std::move(bpe).error().with_context(name + ": model");
  auto impl = std::make_unique<Impl>(*std::move(bpe));

  for (const auto& piece : impl->bpe.pieces()) {
    TokenInfo& token = impl->tokens.emplace_back();
    token.kind = piece ? PieceKind::normal : PieceKind::unused;
    if (!piece) continue;
    token.text = *piece;
    if (impl->bpe.byte_fallback() && is_byte_piece(*piece)) token.kind = PieceKind::byte;
  }
  impl->unk = impl->bpe.unk();
  impl->normalizers = std::move(file.normalizers);
  for (std::size_t i = 0; i < file.added.size(); ++i)
    FETTLE_TRY(impl->add(file.added[i], fmt::format("{}: added_tokens[{}]", name, i)));
  if (impl->unk) impl->tokens[static_cast<std::size_t>(*impl->unk)].kind = PieceKind::unknown;

  impl->prefix = std::move(file.prefix);
  impl->suffix = std::move(file.suffix);
  for (const auto* ids : {&impl->prefix, &impl->suffix})
    for (const std::int32_t id : *ids)
      if (static_cast<std::size_t>(id) >= impl->tokens.size() ||
          impl->tokens[static_cast<std::size_t>(id)].kind == PieceKind::unused)
        return Status(Code::corrupt_data, fmt::format("{}: post_processor: the template adds id {}, which no token has",
                                                      name, grouped(static_cast<std::uint64_t>(id))));

  impl->pre_tokenizers = std::move(file.pre_tokenizers);
  impl->decoders = std::move(file.decoders);
  impl->digest = impl->compute_digest(file);
  for (const PreTokenizer& step : impl->pre_tokenizers) impl->byte_level |= std::holds_alternative<Visible>(step);
  if (!impl->pre_tokenizers.empty() && std::holds_alternative<Visible>(impl->pre_tokenizers.back())) {
    impl->pre_tokenizers.pop_back();  // done word by word, and only for words not met before
    impl->visible_words = true;
  }
  impl->guess_special();
  return impl;
}

Status Tokenizer::Impl::add(AddedToken token, const std::string& where) {
  const auto bad = [&](const std::string& what) { return Status(Code::corrupt_data, where + ": " + what); };
  if (token.content.empty()) return bad("'content' is empty");
  if (const auto known = find(token.content); known && *known != token.id)
    return bad(fmt::format("{} has id {}, but {} elsewhere", in_quotes(token.content), token.id, *known));
  if (static_cast<std::size_t>(token.id) >= tokens.size()) {
    TokenInfo none;
    none.kind = PieceKind::unused;
    tokens.resize(static_cast<std::size_t>(token.id) + 1, none);
  }
  TokenInfo& info = tokens[static_cast<std::size_t>(token.id)];
  if (info.kind != PieceKind::unused && info.text != token.content)
    return bad(
        fmt::format("{} has id {}, which is {} already", in_quotes(token.content), token.id, in_quotes(info.text)));
  if (info.added) return {};  // named twice
  info = {token.content, true, token.special, token.normalized,
          token.special ? PieceKind::control : PieceKind::user_defined};
  added_ids.emplace(token.content, token.id);
  std::string pattern = token.content;
  if (token.normalized && !normalize(normalizers, pattern))
    return bad("a pattern of the normalizer needs too much backtracking");
  (token.normalized ? after_normalizing : before_normalizing).add(pattern, token);
  if (token.normalized) normalized_texts.emplace(token.id, std::move(pattern));
  return {};
}

std::optional<std::int32_t> Tokenizer::Impl::find(std::string_view text) const {
  if (const auto id = bpe.find(text)) return id;
  const auto it = added_ids.find(std::string(text));
  return it == added_ids.end() ? std::nullopt : std::optional(it->second);
}

/// From tokenizer.json alone: what the template adds, else the usual names.
void Tokenizer::Impl::guess_special() {
  const auto first_of = [&](std::initializer_list<const char*> names) -> std::optional<std::int32_t> {
    for (const char* name : names)
      if (const auto it = added_ids.find(name);
          it != added_ids.end() && tokens[static_cast<std::size_t>(it->second)].special)
        return it->second;
    return std::nullopt;
  };
  bos = prefix.empty() ? first_of({"<s>", "<|begin_of_text|>", "<bos>"}) : std::optional(prefix.front());
  eos = suffix.empty() ? first_of({"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"}) : std::optional(suffix.back());
  pad = first_of({"<pad>", "[PAD]", "<|padding|>"});
}

void Tokenizer::Impl::name_special(const SpecialTokens& named) {
  const auto set = [&](const SpecialTokens::Token& token, std::optional<std::int32_t>& to) {
    if (token.text)
      if (const auto id = find(*token.text)) return void(to = id);
    if (token.id && *token.id >= 0 && *token.id < static_cast<std::int64_t>(tokens.size()))
      to = static_cast<std::int32_t>(*token.id);
  };
  set(named.bos, bos);
  set(named.eos, eos);
  set(named.unk, unk);
  set(named.pad, pad);
}

std::string Tokenizer::Impl::compute_digest(const TokenizerFile& file) const {
  Digest digest;
  digest.add("fettle tokenizer 1").add(static_cast<std::int64_t>(bpe.pieces().size()));
  for (const auto& piece : bpe.pieces()) digest.add(piece.has_value()).add(piece.value_or(""));
  digest.add(static_cast<std::int64_t>(bpe.merges().size()));
  for (const auto& [left, right] : bpe.merges()) digest.add(left).add(right);
  digest.add(bpe.unk().value_or(-1)).add(bpe.byte_fallback()).add(bpe.fuse_unk()).add(bpe.ignore_merges());
  std::vector<AddedToken> added = file.added;
  std::stable_sort(added.begin(), added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  digest.add(static_cast<std::int64_t>(added.size()));
  for (const AddedToken& t : added)
    digest.add(t.id).add(t.content).add(t.single_word).add(t.lstrip).add(t.rstrip).add(t.normalized).add(t.special);
  const AddToDigest add{digest};
  add.all(normalizers);
  add.all(pre_tokenizers);
  for (const auto* ids : {&prefix, &suffix}) {
    digest.add(static_cast<std::int64_t>(ids->size()));
    for (const std::int32_t id : *ids) digest.add(id);
  }
  return digest.text();
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::open(const std::string& folder) {
  const std::filesystem::path base(folder);
  const auto there = [&](const char* name) { return std::filesystem::exists(base / name); };
  const auto read = [&]() -> Result<Tokenizer> {
    if (there("tokenizer.json")) {
      const std::string path = (base / "tokenizer.json").string();
      FETTLE_ASSIGN(const std::string text, read_text_file(path));
      return parse(text, path);
    }
    if (there("vocab.json") && there("merges.txt"))
      return open_gpt2((base / "vocab.json").string(), (base / "merges.txt").string());
    if (there("tokenizer.model"))
      return Status(Code::unsupported,
                    folder +
                        ": has tokenizer.model but no tokenizer.json; load it once with the transformers package "
                        "(AutoTokenizer) and save it, which writes tokenizer.json");
    return Status(Code::not_found, folder + ": has no tokenizer.json, nor vocab.json and merges.txt");
  };
  auto tokenizer = read();
  if (!tokenizer) return tokenizer;
  FETTLE_ASSIGN(const SpecialTokens special, read_special_tokens(folder));
  tokenizer->impl_->name_special(special);
  return tokenizer;
}

Result<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json, std::string_view name) {
  FETTLE_ASSIGN(const Json json, parse_json(tokenizer_json, name));
  FETTLE_ASSIGN(TokenizerFile file, read_tokenizer_json(json, std::string(name)));
  FETTLE_ASSIGN(auto impl, Impl::build(std::move(file), std::string(name)));
  return Tokenizer(std::move(impl));
}

Result<Tokenizer> Tokenizer::open_gpt2(const std::string& vocab_json, const std::string& merges_txt) {
  FETTLE_ASSIGN(const Json vocab, read_json_file(vocab_json));
  FETTLE_ASSIGN(const std::string merges, read_text_file(merges_txt));
  FETTLE_ASSIGN(TokenizerFile file, read_gpt2_files(vocab, vocab_json, merges, merges_txt));
  FETTLE_ASSIGN(auto impl, Impl::build(std::move(file), vocab_json));
  return Tokenizer(std::move(impl));
}

Result<std::vector<std::int32_t>> Tokenizer::try_encode(std::string_view text, const EncodeOptions& options) const {
  const Impl& t = *impl_;
  if (text.size() >= (std::size_t{2} << 30))
    return Status(Code::invalid_argument,
                  fmt::format("a text of {} bytes, expected less than 2 GiB at a time", grouped(text.size())));
  std::string repaired;
  if (!is_utf8(text)) text = repaired = unicode::replace_invalid_utf8(text);

  std::vector<std::int32_t> ids;
  if (options.add_special) ids = t.prefix;
  std::size_t parts = 0;
  bool cancelled = false;
  const std::function<bool()> go_on = [&] {
    if (++parts % 4096 == 0 && options.cancelled && options.cancelled()) cancelled = true;
    return !cancelled && ids.size() < options.max_tokens;
  };
  WordCache cache;
  std::string visible;
  WordCutter words(t.pre_tokenizers, [&](std::string_view word) {
    if (!t.visible_words) return t.bpe.encode(word, &cache, go_on, ids);
    if (cache.find(word, ids)) return go_on();
    visible.clear();
    append_visible(visible, word);
    const std::size_t before = ids.size();
    if (!t.bpe.encode(visible, nullptr, go_on, ids)) return false;
    cache.add(word, ids.data() + before, ids.size() - before);
    return true;
  });

  bool too_hard = false;
  const auto encode_piece = [&](std::string_view piece, bool at_start) {
    return t.after_normalizing.cut(piece, [&](std::size_t begin, std::size_t end, const AddedToken* token) {
      if (!token) return words.cut(piece.substr(begin, end - begin), at_start && begin == 0);
      ids.push_back(token->id);
      return ids.size() < options.max_tokens;
    });
  };
  const bool complete =
      ids.size() < options.max_tokens &&
      t.before_normalizing.cut(text, [&](std::size_t begin, std::size_t end, const AddedToken* token) {
        if (token) {
          ids.push_back(token->id);
          return ids.size() < options.max_tokens;
        }
        if (t.normalizers.empty()) return encode_piece(text.substr(begin, end - begin), begin == 0);
        std::string piece(text.substr(begin, end - begin));
        too_hard = !normalize(t.normalizers, piece);
        return !too_hard && encode_piece(piece, begin == 0);
      });
  if (cancelled) return Status(Code::cancelled, "cancelled");
  if (too_hard || words.too_hard())
    return Status(Code::unsupported,
                  fmt::format("the {} pattern of this tokenizer backtracks without end on this text; "
                              "use a tokenizer.json with a simpler pattern",
                              too_hard ? "normalizer's" : "split"));
  if (complete && options.add_special) ids.insert(ids.end(), t.suffix.begin(), t.suffix.end());
  if (ids.size() > options.max_tokens) ids.resize(options.max_tokens);
  return ids;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  EncodeOptions options;
  options.add_special = add_special;
  auto ids = try_encode(text, options);
  if (!ids) throw std::runtime_error(ids.error().message());
  return *std::move(ids);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const std::int32_t id : ids) {
    const TokenInfo* info = token(id);
    if (!info || (skip_special && info->special)) continue;
    pieces.push_back(info->normalized ? impl_->normalized_texts.at(id) : info->text);
  }
  if (impl_->decoders) return decode_pieces(*impl_->decoders, std::move(pieces));
  return fmt::format("{}", fmt::join(pieces, " "));
}

std::int32_t Tokenizer::vocab_size() const { return static_cast<std::int32_t>(impl_->tokens.size()); }
const TokenInfo* Tokenizer::token(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) return nullptr;
  const TokenInfo& info = impl_->tokens[static_cast<std::size_t>(id)];
  return info.kind == PieceKind::unused ? nullptr : &info;
}
std::optional<std::int32_t> Tokenizer::id(std::string_view text) const { return impl_->find(text); }
std::optional<std::int32_t> Tokenizer::bos() const { return impl_->bos; }
std::optional<std::int32_t> Tokenizer::eos() const { return impl_->eos; }
std::optional<std::int32_t> Tokenizer::unk() const { return impl_->unk; }
std::optional<std::int32_t> Tokenizer::pad() const { return impl_->pad; }
std::span<const std::int32_t> Tokenizer::template_prefix() const { return impl_->prefix; }
std::span<const std::int32_t> Tokenizer::template_suffix() const { return impl_->suffix; }
bool Tokenizer::adds_bos() const { return !impl_->prefix.empty() && impl_->bos == impl_->prefix.front(); }
bool Tokenizer::adds_eos() const { return !impl_->suffix.empty() && impl_->eos == impl_->suffix.back(); }
bool Tokenizer::byte_level() const { return impl_->byte_level; }
bool Tokenizer::byte_fallback() const { return impl_->bpe.byte_fallback(); }
bool Tokenizer::ignores_merges() const { return impl_->bpe.ignore_merges(); }

bool Tokenizer::adds_dummy_prefix() const {
  const auto& n = impl_->normalizers;
  const auto& p = impl_->pre_tokenizers;
  return std::any_of(n.begin(), n.end(),
                     [](const Normalizer& step) { return std::holds_alternative<Prepend>(step); }) ||
         std::any_of(p.begin(), p.end(), [](const PreTokenizer& step) {
           const auto* meta = std::get_if<Metaspace>(&step);
           return std::holds_alternative<PrefixSpace>(step) || (meta && meta->prefix != Metaspace::Prefix::never);
         });
}

bool Tokenizer::splits_digits() const {
  for (const PreTokenizer& step : impl_->pre_tokenizers) {
    const auto* split = std::get_if<Split>(&step);
    const auto* char_class = split ? std::get_if<CharClass>(&split->needle) : nullptr;
    if (char_class && *char_class == &unicode::is_numeric) return true;
  }
  return false;
}

std::vector<std::string> Tokenizer::merges() const {
  std::vector<std::string> out;
  out.reserve(impl_->bpe.merges().size());
  for (const auto& [left, right] : impl_->bpe.merges())
    out.push_back(impl_->tokens[static_cast<std::size_t>(left)].text + " " +
                  impl_->tokens[static_cast<std::size_t>(right)].text);
  return out;
}

std::vector<float> Tokenizer::scores() const {
  std::vector<float> out(impl_->tokens.size(), 0.0f);
  const auto& merges = impl_->bpe.merges();
  for (std::size_t rank = merges.size(); rank-- > 0;) {  // the first rank is written last
    const auto& [left, right] = merges[rank];
    const auto id = impl_->bpe.find(impl_->tokens[static_cast<std::size_t>(left)].text +
                                    impl_->tokens[static_cast<std::size_t>(right)].text);
    out[static_cast<std::size_t>(*id)] = -static_cast<float>(rank);
  }
  return out;
}

std::string Tokenizer::split_pattern() const {
  std::string pattern;
  for (const PreTokenizer& step : impl_->pre_tokenizers) {
    const auto* split = std::get_if<Split>(&step);
    const auto* regex = split ? std::get_if<Pattern>(&split->needle) : nullptr;
    if (regex) pattern = regex->source();
  }
  return pattern;
}

const std::string& Tokenizer::digest() const { return impl_->digest; }

}  // namespace fettle::kit
