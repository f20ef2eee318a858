// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"

#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

namespace fettle::kit {
namespace {

constexpr const char* file_name = "mask.safetensors";
constexpr std::int64_t rows_at_once = 64;
constexpr int max_group = 64;  // hardware stops at 16; more only slows the insertion sort below

/// Scores are >= 0, so their bit patterns order as the numbers do.
std::uint32_t order_key(float score) { return std::bit_cast<std::uint32_t>(score == 0 ? 0.0F : score); }

/// The value below which everything is pruned, and how many of those equal to it are kept, counted from the front.
struct Threshold {
  std::uint32_t key = 0;
  std::int64_t equal_kept = 0;
};

/// Finds it by counting the upper and then the lower half of the bits: exact, no copy of the scores, no sort.
Threshold find_threshold(ConstMatrix scores, std::int64_t pruned) {
  using Counts = std::vector<std::int64_t>;
  const auto count = [&](const auto& visit) {  // whole numbers: the same sums in any order
    tbb::enumerable_thread_specific<Counts> parts(Counts(1u << 16));
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, scores.rows, rows_at_once), [&](const auto& range) {
      Counts& own = parts.local();
      for (std::int64_t i = range.begin(); i < range.end(); ++i)
        for (const float score : scores.row(i)) visit(own, order_key(score));
    });
    Counts all(1u << 16);
    for (const Counts& part : parts) std::transform(all.begin(), all.end(), part.begin(), all.begin(), std::plus<>());
    return all;
  };
  std::int64_t left = pruned;
  std::uint32_t high = 0, low = 0;
  const Counts upper = count([](Counts& own, std::uint32_t key) { ++own[key >> 16]; });
  while (left >= upper[high]) left -= upper[high++];
  const Counts lower = count([high](Counts& own, std::uint32_t key) {
    if (key >> 16 == high) ++own[key & 0xffff];
  });
  while (left >= lower[low]) left -= lower[low++];
  return {high << 16 | low, lower[low] - left};
}

/// Eight columns at a time; those equal to the threshold, which are few, one by one, as many as the rows before left.
void prune_below(Mask& mask, ConstMatrix scores, const Threshold& threshold) {
  const std::int64_t parts = (scores.rows + rows_at_once - 1) / rows_at_once;
  std::vector<std::int64_t> equal(static_cast<std::size_t>(parts));
  const auto for_part = [&](const auto& body) {
    tbb::parallel_for(std::int64_t{0}, parts, [&](std::int64_t part) {
      const std::int64_t first = part * rows_at_once;
      body(part, scores.rows_from(first, std::min(rows_at_once, scores.rows - first)), first);
    });
  };
  for_part([&](std::int64_t part, ConstMatrix rows, std::int64_t) {
    std::int64_t found = 0;
    for (std::int64_t i = 0; i < rows.rows; ++i)
      for (const float score : rows.row(i)) found += order_key(score) == threshold.key;
    equal[static_cast<std::size_t>(part)] = found;
  });
  std::exclusive_scan(equal.begin(), equal.end(), equal.begin(), std::int64_t{0});
  for_part([&](std::int64_t part, ConstMatrix rows, std::int64_t first) {
    std::int64_t equal_kept = threshold.equal_kept - equal[static_cast<std::size_t>(part)];
    for (std::int64_t i = 0; i < rows.rows; ++i)
      for (std::int64_t j = 0; j < rows.cols; j += 8) {
        const std::int64_t count = std::min<std::int64_t>(8, rows.cols - j);
        unsigned above = 0, at = 0;
        for (std::int64_t b = 0; b < count; ++b) {
          const std::uint32_t key = order_key(rows(i, j + b));
          above |= static_cast<unsigned>(key > threshold.key) << b;
          at |= static_cast<unsigned>(key == threshold.key) << b;
        }
        for (; at != 0; at &= at - 1)
          if (equal_kept-- > 0) above |= at & (~at + 1);
        mask.keep_only(first + i, j / 8, static_cast<std::uint8_t>(above));
      }
  });
}

/// The row-wise case sorts indices: a row is too short for 65,536 counters to pay.
void prune_row(Mask& mask, ConstMatrix scores, std::int64_t row, std::int64_t pruned,
               std::vector<std::int32_t>& order) {
  order.resize(static_cast<std::size_t>(scores.cols));
  std::iota(order.begin(), order.end(), 0);
  const auto s = scores.row(row);
  std::nth_element(order.begin(), order.begin() + pruned, order.end(), [&](std::int32_t a, std::int32_t b) {
    const std::uint32_t ka = order_key(s[static_cast<std::size_t>(a)]), kb = order_key(s[static_cast<std::size_t>(b)]);
    return ka != kb ? ka < kb : a > b;
  });
  for (std::int64_t i = 0; i < pruned; ++i) mask.prune(row, order[static_cast<std::size_t>(i)]);
}

/// floor(size * share), but not one less because 0.3 * 10 is 2.9999999999999996.
std::int64_t share_of(std::int64_t size, double share) {
  const double exact = static_cast<double>(size) * share;
  const double nearest = std::nearbyint(exact);
  return static_cast<std::int64_t>(std::abs(exact - nearest) < 1e-6 ? nearest : std::floor(exact));
}

}  // namespace

Result<NofM> parse_n_of_m(std::string_view text) {
  NofM p;
  const char* const end = text.data() + text.size();
  const auto [after_n, bad_n] = std::from_chars(text.data(), end, p.n);
  const bool colon = bad_n == std::errc{} && after_n != end && *after_n == ':';
  const auto [after_m, bad_m] =
      colon ? std::from_chars(after_n + 1, end, p.m) : std::from_chars_result{end, std::errc::invalid_argument};
  if (bad_m != std::errc{} || after_m != end || p.n < 1 || p.n > p.m || p.m > max_group)
    return Status(Code::invalid_argument,
                  fmt::format("pattern '{}' is not N:M with 1 <= N <= M <= {}; 2:4 keeps two of every four weights",
                              text, max_group),
                  "pattern");
  return p;
}

Mask::Mask(std::int64_t rows, std::int64_t cols)
    : rows_(rows), cols_(cols), bits_(static_cast<std::size_t>(rows * ((cols + 7) / 8)), 0xff) {
  clear_padding();
}

Mask::Mask(std::int64_t rows, std::int64_t cols, std::span<const std::byte> bytes)
    : rows_(rows), cols_(cols), bits_(bytes.size()) {
  std::memcpy(bits_.data(), bytes.data(), bytes.size());
  clear_padding();
}

void Mask::clear_padding() {
  if (cols_ % 8 == 0) return;
  const auto last = static_cast<std::uint8_t>((1u << (cols_ % 8)) - 1);
  for (std::int64_t i = 0; i < rows_; ++i) bits_[static_cast<std::size_t>((i + 1) * row_bytes() - 1)] &= last;
}

void Mask::prune_columns(std::int64_t first, const Mask& part) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, rows_, 64), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i) {
      if (first % 8 != 0) {
        for (std::int64_t j = 0; j < part.cols(); ++j)
          if (!part.kept(i, j)) prune(i, first + j);
        continue;
      }
      for (std::int64_t byte = 0; byte < part.row_bytes(); ++byte) {
        const std::int64_t over = (byte + 1) * 8 - part.cols();  // columns that the last byte of `part` does not have
        const auto others = static_cast<std::uint8_t>(over > 0 ? 0xff << (8 - over) : 0);
        keep_only(i, first / 8 + byte, part.bits_[part.at(i, byte * 8)] | others);
      }
    }
  });
}

std::int64_t Mask::count_pruned() const {
  std::int64_t kept = 0;
  for (const std::uint8_t byte : bits_) kept += std::popcount(byte);
  return rows_ * cols_ - kept;
}

Mask prune_share(ConstMatrix scores, double share, Group group) {
  Mask mask(scores.rows, scores.cols);
  if (group == Group::row) {
    const std::int64_t pruned = share_of(scores.cols, share);
    if (pruned == 0) return mask;
    tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, scores.rows, 16), [&](const auto& range) {
      std::vector<std::int32_t> order;
      for (std::int64_t i = range.begin(); i < range.end(); ++i) prune_row(mask, scores, i, pruned, order);
    });
    return mask;
  }
  const std::int64_t size = scores.rows * scores.cols;
  const std::int64_t pruned = share_of(size, share);
  if (pruned == 0) return mask;
  if (pruned == size) {
    for (std::int64_t i = 0; i < scores.rows; ++i)
      for (std::int64_t j = 0; j < scores.cols; ++j) mask.prune(i, j);
    return mask;
  }
  prune_below(mask, scores, find_threshold(scores, pruned));
  return mask;
}

std::uint64_t keep_n_of_m(const float* scores, NofM pattern) {
  // Insertion sort, highest first; stable, so the earlier of equal scores ranks higher.
  std::array<std::int64_t, max_group> order;
  const auto m = static_cast<std::size_t>(pattern.m);
  for (std::size_t j = 0; j < m; ++j) {
    std::size_t at = j;
    for (; at > 0 && scores[order[at - 1]] < scores[j]; --at) order[at] = order[at - 1];
    order[at] = static_cast<std::int64_t>(j);
  }
  std::uint64_t kept = 0;
  for (std::size_t rank = 0; rank < static_cast<std::size_t>(pattern.n); ++rank)
    kept |= std::uint64_t{1} << order[rank];
  return kept;
}

Mask prune_n_of_m(ConstMatrix scores, NofM pattern) {
  Mask mask(scores.rows, scores.cols);
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, scores.rows, 16), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      for (std::int64_t group = 0; group < scores.cols; group += pattern.m) {
        const std::uint64_t kept = keep_n_of_m(scores.data + i * scores.stride + group, pattern);
        for (int j = 0; j < pattern.m; ++j)
          if ((kept >> j & 1) == 0) mask.prune(i, group + j);
      }
  });
  return mask;
}

Result<MaskWriter> MaskWriter::create(const std::string& folder, const std::vector<Shape>& matrices) {
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> metadata;
  for (const Shape& m : matrices) {
    specs.push_back({m.name, DType::u8, {m.rows, (m.cols + 7) / 8}});
    metadata["cols:" + m.name] = std::to_string(m.cols);
  }
  FETTLE_ASSIGN(auto writer,
                SafetensorsWriter::create(folder + "/" + file_name, std::move(specs), std::move(metadata)));
  return MaskWriter(std::move(writer));
}

Status MaskWriter::add(std::string_view name, const Mask& mask) { return writer_.append(name, mask.bytes()); }
Status MaskWriter::finish() { return writer_.finish(); }

Result<std::map<std::string, Mask>> read_masks(const std::string& folder) {
  FETTLE_ASSIGN(const auto file, SafetensorsReader::open(folder + "/" + file_name));
  std::map<std::string, Mask> masks;
  for (const TensorView& t : file.tensors()) {
    const auto stored = file.metadata().find("cols:" + t.name);
    std::int64_t cols = 0;
    if (stored != file.metadata().end())
      std::from_chars(stored->second.data(), stored->second.data() + stored->second.size(), cols);
    if (t.dtype != DType::u8 || t.shape.size() != 2 || cols < 1 || (cols + 7) / 8 != t.shape[1])
      return Status(
          Code::corrupt_data,
          fmt::format(
              "{}: tensor '{}' is not a mask: expected u8 [rows, columns / 8] and its column count in the metadata",
              file.path(), t.name));
    masks.emplace(t.name, Mask(t.shape[0], cols, t.bytes));
  }
  return masks;
}

}  // namespace fettle::kit
