// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/mask.h"

#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>

namespace fettle::kit {
namespace {

constexpr const char* file_name = "mask.safetensors";
constexpr int max_group = 64;  // hardware stops at 16; more only slows the insertion sort below

/// Scores are >= 0, so their bit patterns order as the numbers do.
std::uint32_t order_key(float score) { return std::bit_cast<std::uint32_t>(score == 0 ? 0.0F : score); }

/// The value below which everything is pruned, and how many of those equal to it are kept, counted from the front.
struct Threshold {
  std::uint32_t key = 0;
  std::int64_t equal_kept = 0;
};

/// Finds it by counting the upper and then the lower half of the bits: exact, no copy of the scores, no sort.
template <class ForEach>
Threshold find_threshold(std::int64_t pruned, const ForEach& for_each) {
  std::vector<std::int64_t> count(1u << 16);
  for_each([&](std::uint32_t key) { ++count[key >> 16]; });
  std::int64_t left = pruned;
  std::uint32_t high = 0;
  while (left >= count[high]) left -= count[high++];
  std::fill(count.begin(), count.end(), 0);
  for_each([&](std::uint32_t key) {
    if (key >> 16 == high) ++count[key & 0xffff];
  });
  std::uint32_t low = 0;
  while (left >= count[low]) left -= count[low++];
  return {high << 16 | low, count[low] - left};
}

void prune_below(Mask& mask, ConstMatrix scores, Threshold threshold) {
  for (std::int64_t i = 0; i < scores.rows; ++i)
    for (std::int64_t j = 0; j < scores.cols; ++j) {
      const std::uint32_t key = order_key(scores(i, j));
      if (key < threshold.key || (key == threshold.key && threshold.equal_kept-- <= 0)) mask.prune(i, j);
    }
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
  const Threshold threshold = find_threshold(pruned, [&](auto&& visit) {
    for (std::int64_t i = 0; i < scores.rows; ++i)
      for (const float score : scores.row(i)) visit(order_key(score));
  });
  prune_below(mask, scores, threshold);
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
