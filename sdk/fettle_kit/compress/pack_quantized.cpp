// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/compressed_tensors.h"
#include "fettle_kit/compress/grid_row.h"
#include "fettle_kit/compress/packing.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <cstring>
#include <optional>

namespace fettle::kit {
namespace {

class PackedInts final : public PackedMatrix {
 public:
  static Result<std::unique_ptr<const PackedMatrix>> open(const CompressedModule& m) {
    const Checkpoint& c = *m.checkpoint;
    const int bits = m.weights.bits;
    if (m.weights.type != "int" || bits < 2 || bits > 8)
      return bad_tensor(
          c, m.name + ".weight_packed",
          fmt::format("has weights of type {} with {} bits, expected int with 2 to 8", m.weights.type, bits));
    FETTLE_ASSIGN(const TensorView* const shape, require_tensor(c, m.name + ".weight_shape", DType::i64, {2}));
    std::int64_t rows = 0, cols = 0;
    std::memcpy(&rows, shape->bytes.data(), 8);
    std::memcpy(&cols, shape->bytes.data() + 8, 8);
    constexpr std::int64_t limit = std::int64_t{1} << 40;
    if (rows < 1 || cols < 1 || rows > limit || cols > limit)
      return bad_tensor(c, shape->name, fmt::format("says {} x {}, expected positive sizes", rows, cols));
    FETTLE_ASSIGN(const TensorView* const packed,
                  require_tensor(c, m.name + ".weight_packed", DType::i32, {rows, words_for(cols, bits)}));

    std::int64_t groups = 1;
    if (m.weights.strategy == "group") {
      if (m.weights.group_size < 1 || cols % m.weights.group_size != 0)
        return bad_tensor(c, packed->name,
                          fmt::format("has rows of {}, which groups of {} do not divide", cols, m.weights.group_size));
      groups = cols / m.weights.group_size;
    } else if (m.weights.strategy != "channel" && m.weights.strategy != "tensor") {
      return bad_tensor(c, packed->name,
                        fmt::format("has strategy '{}', expected group, channel or tensor", m.weights.strategy));
    }
    const bool whole = m.weights.strategy == "tensor";
    const TensorView* const scale = c.find(m.name + ".weight_scale");
    const std::vector<std::int64_t> scale_shape =
        whole ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{rows, groups};
    if (scale->shape != scale_shape || !is_float(scale->dtype))
      return bad_tensor(c, scale->name,
                        fmt::format("is {} {}, expected floats {}", info(scale->dtype).name, shape_text(scale->shape),
                                    shape_text(scale_shape)));

    auto matrix = std::unique_ptr<PackedInts>(new PackedInts(rows, cols, groups, bits, *packed, *scale));
    if (!m.weights.symmetric) {
      if (whole)
        return bad_tensor(c, packed->name, "is asymmetric with strategy 'tensor', which pack-quantized does not know");
      FETTLE_ASSIGN(const TensorView* const zeros,
                    require_tensor(c, m.name + ".weight_zero_point", DType::i32, {words_for(rows, bits), groups}));
      matrix->zeros_ = *zeros;
    }
    FETTLE_TRY(matrix->read_index(c, m));
    return std::unique_ptr<const PackedMatrix>(std::move(matrix));
  }

  void read(std::int64_t first, MutMatrix out) const override {
    const auto width = static_cast<std::size_t>(words_for(cols(), bits_));
    std::vector<std::uint32_t> words(width);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols()));
    GridRow grids(groups_, 1 << (bits_ - 1), group_of_);
    for (std::int64_t i = 0; i < out.rows; ++i) {
      std::memcpy(words.data(), packed_.bytes.data() + static_cast<std::size_t>(first + i) * width * 4, width * 4);
      unpack_codes(words, bits_, codes);
      read_row_of_scales(scales_, first + i, grids.scales);
      if (zeros_)
        for (std::int64_t g = 0; g < groups_; ++g) grids.zeros[static_cast<std::size_t>(g)] = zero(first + i, g);
      grids.values(out.row(i), codes.data());
    }
  }

 private:
  PackedInts(std::int64_t rows, std::int64_t cols, std::int64_t groups, int bits, const TensorView& packed,
             const TensorView& scales)
      : PackedMatrix(rows, cols), groups_(groups), bits_(bits), packed_(packed), scales_(scales) {}

  /// Those of a group are a stream of bits down its column of words.
  std::int32_t zero(std::int64_t row, std::int64_t group) const {
    const std::int64_t bit = row * bits_, word = bit / 32;
    const auto at = [&](std::int64_t w) { return std::uint64_t{word_at(*zeros_, w * groups_ + group)}; };
    const std::uint64_t stream = at(word) | (bit % 32 + bits_ > 32 ? at(word + 1) << 32 : 0);
    return static_cast<std::int32_t>(stream >> (bit % 32) & ((1U << bits_) - 1));
  }

  /// Columns lie in the groups of their neighbours, or where weight_g_idx says (releases before 0.19).
  Status read_index(const Checkpoint& c, const CompressedModule& m) {
    if (c.find(m.name + ".weight_g_idx") == nullptr) return {};
    FETTLE_ASSIGN(const TensorView* const index, require_tensor(c, m.name + ".weight_g_idx", DType::i32, {cols()}));
    group_of_.resize(static_cast<std::size_t>(cols()));
    std::memcpy(group_of_.data(), index->bytes.data(), index->bytes.size());
    for (const std::int32_t g : group_of_)
      if (g < 0 || g >= groups_)
        return bad_tensor(c, index->name, fmt::format("names group {}, but there are {}", g, groups_));
    return {};
  }

  std::int64_t groups_;
  int bits_;
  TensorView packed_, scales_;
  std::optional<TensorView> zeros_;
  std::vector<std::int32_t> group_of_;  // empty: neighbours
};

}  // namespace

const CompressedFormat pack_quantized = {
    "pack-quantized",
    {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"},
    &PackedInts::open};

std::vector<TensorSpec> pack_quantized_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                             const GridScheme& s) {
  const std::int64_t groups = s.groups(cols);
  std::vector<TensorSpec> specs = {{module + ".weight_packed", DType::i32, {rows, words_for(cols, s.bits)}},
                                   {module + ".weight_scale", s.scale_type, {rows, groups}},
                                   {module + ".weight_shape", DType::i64, {2}}};
  if (s.sharing == Sharing::tensor) specs[1].shape = {1};
  if (!s.symmetric) specs.push_back({module + ".weight_zero_point", DType::i32, {words_for(rows, s.bits), groups}});
  return specs;
}

std::vector<std::vector<std::byte>> pack_quantized_bytes(const CodedMatrix& m, const GridScheme& s) {
  const std::int64_t width = words_for(m.cols, m.bits);
  std::vector<std::uint32_t> packed(static_cast<std::size_t>(m.rows * width));
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, m.rows, 16), [&](const auto& range) {
    for (std::int64_t i = range.begin(); i < range.end(); ++i)
      pack_codes({m.codes.data() + i * m.cols, static_cast<std::size_t>(m.cols)}, m.bits,
                 {packed.data() + i * width, static_cast<std::size_t>(width)});
  });
  const std::size_t scales = s.sharing == Sharing::tensor ? 1 : m.scales.size();
  std::vector<std::byte> scale_bytes(scales * bytes_of(s.scale_type, 1));
  info(s.scale_type).from_f32(m.scales.data(), scale_bytes.data(), scales);
  std::vector<std::vector<std::byte>> all = {as_bytes(packed), std::move(scale_bytes),
                                             as_bytes(std::vector<std::int64_t>{m.rows, m.cols})};
  if (!s.symmetric) all.push_back(as_bytes(pack_columns(m.zeros, m.rows, m.groups, m.bits)));
  return all;
}

Json pack_quantized_args(const GridScheme& s, bool act_order) {
  Json args = {{"num_bits", s.bits}, {"type", "int"}, {"symmetric", s.symmetric}};
  args["strategy"] = s.sharing == Sharing::group ? "group" : s.sharing == Sharing::channel ? "channel" : "tensor";
  if (s.sharing == Sharing::group) args["group_size"] = s.group_size;
  args["dynamic"] = false;
  if (act_order) args["actorder"] = "weight";
  return args;
}

}  // namespace fettle::kit
