// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/text/bpe.h"

#include "fettle_kit/io/message.h"
#include "fettle_kit/text/unicode.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace fettle::kit {
namespace {

constexpr char32_t low_char_end = 0x3000;
constexpr std::size_t join_bits = 1u << 20;
// Longer words are first cut where no merge can reach across.
constexpr std::size_t cut_from = 64;

std::uint64_t mixed(std::uint64_t x) {  // the finalizer of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

std::uint64_t hash_of(std::string_view text) {
  std::uint64_t h = 0x9e3779b97f4a7c15ull ^ text.size();
  std::size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    std::uint64_t part;
    std::memcpy(&part, text.data() + i, 8);
    h = mixed(h ^ part);
  }
  std::uint64_t part = 0;
  for (std::size_t shift = 0; i < text.size(); ++i, shift += 8)
    part |= static_cast<std::uint64_t>(static_cast<unsigned char>(text[i])) << shift;
  return mixed(h ^ part);
}

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

std::size_t join_bit(char32_t left, char32_t right) {
  return mixed(static_cast<std::uint64_t>(left) << 32 | right) & (join_bits - 1);
}

Status corrupt(std::string message) { return {Code::corrupt_data, std::move(message)}; }

}  // namespace

Result<Bpe> Bpe::build(BpeData data) {
  Bpe bpe;
  if (data.vocab.empty()) return corrupt("vocab: is empty");
  std::int32_t end = 0;
  for (const auto& [piece, id] : data.vocab) end = std::max(end, id + 1);
  bpe.pieces_.resize(static_cast<std::size_t>(end));
  for (auto& [piece, id] : data.vocab) {
    auto& slot = bpe.pieces_[static_cast<std::size_t>(id)];
    if (slot)
      return corrupt(fmt::format("vocab: pieces {} and {} share id {}", in_quotes(*slot), in_quotes(piece), id));
    slot = std::move(piece);
  }
  bpe.ids_.reserve(data.vocab.size());
  bpe.low_chars_.assign(low_char_end, -1);
  for (std::int32_t id = 0; id < end; ++id) {
    const auto& piece = bpe.pieces_[static_cast<std::size_t>(id)];
    if (!piece) continue;
    if (!bpe.ids_.emplace(*piece, id).second)
      return corrupt(fmt::format("vocab: piece {} appears twice", in_quotes(*piece)));
    if (piece->empty() || piece->size() != unicode::length_of(piece->front())) continue;
    const char32_t c = unicode::code_point(*piece, 0);
    if (c < low_char_end)
      bpe.low_chars_[c] = id;
    else
      bpe.high_chars_.emplace(c, id);
  }

  std::size_t slots = 16;
  while (slots < 2 * data.merges.size()) slots *= 2;
  bpe.table_.resize(slots);
  bpe.joins_.resize(join_bits);
  bpe.merges_.reserve(data.merges.size());
  std::string whole;
  for (std::size_t rank = 0; rank < data.merges.size(); ++rank) {
    const std::string &left = data.merges[rank].first, &right = data.merges[rank].second;
    const auto bad = [&](std::string_view what) {
      return corrupt(fmt::format("merges: number {} ({} {}): {}", rank, in_quotes(left), in_quotes(right), what));
    };
    const auto missing = [&](std::string_view piece) {
      return bad(fmt::format("piece {} is not in the vocabulary", in_quotes(piece)));
    };
    if (left.empty() || right.empty()) return bad("a part is empty");
    const auto l = bpe.find(left), r = bpe.find(right);
    if (!l) return missing(left);
    if (!r) return missing(right);
    whole.assign(left).append(right);
    const auto id = bpe.find(whole);
    if (!id) return missing(whole);
    bpe.merges_.emplace_back(*l, *r);
    bpe.add_merge(*l, *r, static_cast<std::int32_t>(rank), *id);
    bpe.note_pairs(whole);
  }

  if (data.unk_token && !data.unk_token->empty()) {
    bpe.unk_ = bpe.find(*data.unk_token);
    if (!bpe.unk_)
      return corrupt(fmt::format("unk_token: piece {} is not in the vocabulary", in_quotes(*data.unk_token)));
  }
  bpe.byte_fallback_ = data.byte_fallback;
  bpe.fuse_unk_ = data.fuse_unk;
  bpe.ignore_merges_ = data.ignore_merges;
  if (data.byte_fallback)
    for (int b = 0; b < 256; ++b) bpe.byte_ids_.push_back(bpe.find(fmt::format("<0x{:02X}>", b)).value_or(-1));
  return bpe;
}

std::optional<std::int32_t> Bpe::find(std::string_view piece) const {
  const auto it = ids_.find(piece);
  return it == ids_.end() ? std::nullopt : std::optional(it->second);
}

const Bpe::Merge* Bpe::merge_of(std::int32_t left, std::int32_t right) const {
  const std::uint64_t key = key_of(left, right);
  for (std::size_t i = mixed(key) & (table_.size() - 1);; i = (i + 1) & (table_.size() - 1)) {
    if (table_[i].pair == key) return &table_[i];
    if (table_[i].pair == ~0ull) return nullptr;
  }
}

void Bpe::add_merge(std::int32_t left, std::int32_t right, std::int32_t rank, std::int32_t id) {
  const std::uint64_t key = key_of(left, right);
  std::size_t i = mixed(key) & (table_.size() - 1);
  while (table_[i].pair != ~0ull && table_[i].pair != key) i = (i + 1) & (table_.size() - 1);
  table_[i] = {key, rank, id};  // of a pair named twice the last rank holds, as in the reference
}

std::int32_t Bpe::id_of_char(char32_t c) const {
  if (c < low_char_end) return low_chars_[c];
  const auto it = high_chars_.find(c);
  return it == high_chars_.end() ? -1 : it->second;
}

void Bpe::note_pairs(std::string_view piece) {
  char32_t left = unicode::code_point(piece, 0);
  for (std::size_t i = unicode::length_of(piece[0]); i < piece.size(); i += unicode::length_of(piece[i])) {
    const char32_t right = unicode::code_point(piece, i);
    joins_[join_bit(left, right)] = true;
    left = right;
  }
}

bool Bpe::may_join(char32_t left, char32_t right) const {
  // A merge across the border of two characters makes a piece that holds both side by side. The set is hashed: a false
  // yes only joins what would stay apart anyway. Characters without a piece may fuse with their neighbours.
  return joins_[join_bit(left, right)] || id_of_char(left) < 0 || id_of_char(right) < 0;
}

bool Bpe::encode(std::string_view word, WordCache* cache, const std::function<bool()>& go_on,
                 std::vector<std::int32_t>& out) const {
  if (word.empty()) return true;
  if (ignore_merges_) {
    if (const auto id = find(word)) {
      out.push_back(*id);
      return go_on();
    }
    cache = nullptr;  // whole words and parts of words mean different things
  }
  const auto encode_part = [&](std::string_view part) {
    if (cache && cache->find(part, out)) return go_on();
    const std::size_t before = out.size();
    merge_word(part, out);
    if (cache) cache->add(part, out.data() + before, out.size() - before);
    return go_on();
  };
  if (word.size() < cut_from) return encode_part(word);
  std::size_t start = 0, previous = 0;
  for (std::size_t i = unicode::length_of(word[0]); i < word.size(); i += unicode::length_of(word[i])) {
    if (!may_join(unicode::code_point(word, previous), unicode::code_point(word, i))) {
      if (!encode_part(word.substr(start, i - start))) return false;
      start = i;
    }
    previous = i;
  }
  return encode_part(word.substr(start));
}

void Bpe::merge_word(std::string_view word, std::vector<std::int32_t>& out) const {
  struct Symbol {
    std::int32_t id;  // -1: merged into its left neighbour
    std::int32_t previous, next;
  };
  struct Candidate {
    std::int32_t rank, at, id;
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }  // best = top
  };
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  const auto add = [&](std::int32_t id) {
    const auto n = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, n - 1, n + 1});
  };
  bool pending_unk = false;
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t length = unicode::length_of(word[i]);
    const std::int32_t id = id_of_char(unicode::code_point(word, i));
    if (id >= 0) {
      if (std::exchange(pending_unk, false)) add(*unk_);
      add(id);
    } else {
      const auto byte_id = [&](std::size_t k) { return byte_ids_[static_cast<unsigned char>(word[i + k])]; };
      bool bytes = byte_fallback_;
      for (std::size_t k = 0; bytes && k < length; ++k) bytes = byte_id(k) >= 0;
      if (bytes) {
        for (std::size_t k = 0; k < length; ++k) add(byte_id(k));
      } else if (unk_) {
        if (pending_unk && !fuse_unk_) add(*unk_);
        pending_unk = true;
      }  // without an unknown token the character is lost, as in the reference
    }
    i += length;
  }
  if (pending_unk) add(*unk_);
  if (symbols.empty()) return;
  symbols.back().next = -1;

  std::vector<Candidate> heap;
  const auto consider = [&](std::int32_t at) {
    if (at < 0 || symbols[static_cast<std::size_t>(at)].next < 0) return;
    const Symbol& left = symbols[static_cast<std::size_t>(at)];
    const Merge* merge = merge_of(left.id, symbols[static_cast<std::size_t>(left.next)].id);
    if (!merge) return;
    heap.push_back({merge->rank, at, merge->id});
    std::push_heap(heap.begin(), heap.end());
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<std::size_t>(best.at)];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    const Merge* merge = merge_of(left.id, right.id);
    if (!merge || merge->id != best.id) continue;  // one of the two has changed since
    left.id = best.id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next)
    out.push_back(symbols[static_cast<std::size_t>(i)].id);
}

bool WordCache::find(std::string_view word, std::vector<std::int32_t>& out) const {
  if (word.empty() || word.size() > longest_word || slots_.empty()) return false;
  const std::uint64_t hash = hash_of(word);
  for (std::size_t i = hash & (slots_.size() - 1); slots_[i].length != 0; i = (i + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[i];
    if (slot.hash != hash || slot.length != word.size() ||
        std::memcmp(texts_.data() + slot.text, word.data(), word.size()) != 0)
      continue;
    out.insert(out.end(), ids_.begin() + slot.ids, ids_.begin() + slot.ids + slot.count);
    return true;
  }
  return false;
}

void WordCache::add(std::string_view word, const std::int32_t* ids, std::size_t count) {
  if (word.empty() || word.size() > longest_word || used_ == most_words) return;
  if (2 * (used_ + 1) > slots_.size()) grow();
  const std::uint64_t hash = hash_of(word);
  std::size_t i = hash & (slots_.size() - 1);
  while (slots_[i].length != 0) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = {hash, static_cast<std::uint32_t>(texts_.size()), static_cast<std::uint32_t>(ids_.size()),
               static_cast<std::uint16_t>(word.size()), static_cast<std::uint16_t>(count)};
  texts_ += word;
  ids_.insert(ids_.end(), ids, ids + count);
  ++used_;
}

void WordCache::grow() {
  std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(std::max<std::size_t>(64, 2 * slots_.size())));
  for (const Slot& slot : old) {
    if (slot.length == 0) continue;
    std::size_t i = slot.hash & (slots_.size() - 1);
    while (slots_[i].length != 0) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = slot;
  }
}

}  // namespace fettle::kit
