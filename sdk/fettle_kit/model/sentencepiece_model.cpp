// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/model/sentencepiece_model.h"

#include "fettle_kit/io/mapped_file.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <span>

namespace fettle::kit {
namespace {

/// Walks the fields of a protocol buffer message. The wire format: a varint with number and wire type, then the value.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}

  /// The next field; false at the end, and where the message is broken.
  bool next() {
    if (broken_ || at_ == bytes_.size()) return false;
    const auto tag = varint();
    if (!tag || *tag > UINT32_MAX) return fail();
    number_ = static_cast<std::uint32_t>(*tag >> 3);
    integer_ = 0;
    content_ = {};
    switch (*tag & 7) {
      case 0: {
        const auto value = varint();
        if (!value) return fail();
        integer_ = *value;
        return true;
      }
      case 1:
        return take(8);
      case 2: {
        const auto size = varint();
        return size ? take(*size) : fail();
      }
      case 5:
        return take(4);
      default:
        return fail();
    }
  }

  std::uint32_t number() const { return number_; }
  std::uint64_t integer() const { return integer_; }
  std::span<const std::byte> content() const { return content_; }
  std::string text() const { return {reinterpret_cast<const char*>(content_.data()), content_.size()}; }
  float real() const {
    float value = 0;
    if (content_.size() == sizeof value) std::memcpy(&value, content_.data(), sizeof value);
    return value;
  }
  bool broken() const { return broken_; }
  std::size_t at() const { return at_; }

 private:
  bool fail() {
    broken_ = true;
    return false;
  }
  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64 && at_ < bytes_.size(); shift += 7) {
      const auto byte = static_cast<std::uint64_t>(bytes_[at_++]);
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  }
  bool take(std::uint64_t size) {
    if (size > bytes_.size() - at_) return fail();
    content_ = bytes_.subspan(at_, size);
    at_ += size;
    return true;
  }

  std::span<const std::byte> bytes_, content_;
  std::size_t at_ = 0;
  std::uint32_t number_ = 0;
  std::uint64_t integer_ = 0;
  bool broken_ = false;
};

// Field numbers of sentencepiece_model.proto.
constexpr std::uint32_t kPieces = 1, kNormalizer = 3;
constexpr std::uint32_t kPieceText = 1, kPieceScore = 2, kPieceType = 3;
constexpr std::uint32_t kAddDummyPrefix = 3;

}  // namespace

Result<SentencePieceModel> SentencePieceModel::open(const std::string& path) {
  FETTLE_ASSIGN(const MappedFile file, MappedFile::open(path));
  SentencePieceModel model;
  Fields fields(file.bytes());
  const auto broken = [&] {
    return Status(Code::corrupt_data, fmt::format("{}: not a SentencePiece model: its field near byte {} is broken",
                                                  path, grouped(fields.at())));
  };
  while (fields.next()) {
    Fields inner(fields.content());
    if (fields.number() == kPieces) {
      Piece piece;
      while (inner.next()) {
        if (inner.number() == kPieceText) piece.text = inner.text();
        if (inner.number() == kPieceScore) piece.score = inner.real();
        if (inner.number() == kPieceType) {
          if (inner.integer() < 1 || inner.integer() > 6) return broken();
          piece.type = static_cast<std::int32_t>(inner.integer());
        }
      }
      model.pieces.push_back(std::move(piece));
    } else if (fields.number() == kNormalizer) {
      while (inner.next())
        if (inner.number() == kAddDummyPrefix) model.add_dummy_prefix = inner.integer() != 0;
    }
    if (inner.broken() && (fields.number() == kPieces || fields.number() == kNormalizer)) return broken();
  }
  if (fields.broken()) return broken();
  if (model.pieces.empty()) return Status(Code::corrupt_data, path + ": not a SentencePiece model: it holds no pieces");
  return model;
}

}  // namespace fettle::kit
