// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fettle::kit {

/// What a BPE model is made of, as read from a file.
struct BpeData {
  std::vector<std::pair<std::string, std::int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  ///< in rank order
  std::optional<std::string> unk_token;
  bool byte_fallback = false;  ///< characters without a piece become <0x00>..<0xFF>
  bool fuse_unk = false;       ///< neighbours without a piece share one unknown token
  bool ignore_merges = false;  ///< a word that is a piece is taken whole
};

/// The ids of words met before. Bounded; one thread.
class WordCache {
 public:
  /// Appends the ids of `word` and returns true, or returns false if it is not known.
  bool find(std::string_view word, std::vector<std::int32_t>& out) const;
  void add(std::string_view word, const std::int32_t* ids, std::size_t count);

 private:
  static constexpr std::size_t longest_word = 64, most_words = 1u << 16;
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t text = 0, ids = 0;
    std::uint16_t length = 0, count = 0;  // length 0: free
  };
  void grow();

  std::vector<Slot> slots_;
  std::size_t used_ = 0;
  std::string texts_;
  std::vector<std::int32_t> ids_;
};

/// Byte-pair encoding of words (Sennrich et al. 2016, section 3.2): start from characters, then merge the pair of
/// lowest rank, leftmost first, until none is left. O(n log n) in the length of a word. Immutable. [any thread]
class Bpe {
 public:
  /// Ids must be distinct, and every merge must make a piece from two pieces, else corrupt_data. The caller has checked
  /// that ids lie in 0..max_pieces - 1: the tables are that long.
  static Result<Bpe> build(BpeData data);
  static constexpr std::int32_t max_pieces = 1 << 22;  // sixteen times the largest vocabulary in use

  Bpe(const Bpe&) = delete;  // ids_ points into pieces_, which a move keeps in place
  Bpe(Bpe&&) = default;
  Bpe& operator=(Bpe&&) = default;

  /// Appends the ids of one word (valid UTF-8). The cache may be null; it must have seen this model only. A long word
  /// is taken in parts, with go_on() asked after each; false ends the call, and is returned.
  bool encode(std::string_view word, WordCache* cache, const std::function<bool()>& go_on,
              std::vector<std::int32_t>& out) const;

  std::optional<std::int32_t> find(std::string_view piece) const;
  /// Sorted by id, without gaps: an id without a piece has nullopt.
  const std::vector<std::optional<std::string>>& pieces() const { return pieces_; }
  const std::vector<std::pair<std::int32_t, std::int32_t>>& merges() const { return merges_; }
  std::optional<std::int32_t> unk() const { return unk_; }
  bool byte_fallback() const { return byte_fallback_; }
  bool fuse_unk() const { return fuse_unk_; }
  bool ignore_merges() const { return ignore_merges_; }

 private:
  struct Merge {
    std::uint64_t pair = ~0ull;  // left id << 32 | right id; all ones: free slot
    std::int32_t rank = 0, id = 0;
  };
  Bpe() = default;
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;
  void add_merge(std::int32_t left, std::int32_t right, std::int32_t rank, std::int32_t id);
  std::int32_t id_of_char(char32_t c) const;
  void note_pairs(std::string_view piece);
  bool may_join(char32_t left, char32_t right) const;
  void merge_word(std::string_view word, std::vector<std::int32_t>& out) const;

  std::vector<std::optional<std::string>> pieces_;
  std::unordered_map<std::string_view, std::int32_t> ids_;  // views into pieces_
  std::vector<std::pair<std::int32_t, std::int32_t>> merges_;
  std::vector<Merge> table_;             // open addressing, a power of two, at most half full
  std::vector<std::int32_t> low_chars_;  // id by code point below 0x3000, or -1
  std::unordered_map<char32_t, std::int32_t> high_chars_;
  std::vector<bool> joins_;             // hashed set of the character pairs inside merged pieces
  std::vector<std::int32_t> byte_ids_;  // 256, or empty; -1: that byte has no piece
  std::optional<std::int32_t> unk_;
  bool byte_fallback_ = false, fuse_unk_ = false, ignore_merges_ = false;
};

}  // namespace fettle::kit
