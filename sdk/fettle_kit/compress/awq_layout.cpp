// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/awq_layout.h"

#include "fettle_kit/compress/grid_row.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <limits>

namespace fettle::kit {
namespace {

constexpr std::string_view packed_suffix = ".qweight";
constexpr std::int64_t in_a_word = 8;
/// Nibble i of a word holds the output of this place among its eight.
constexpr std::array<int, in_a_word> order = {0, 2, 4, 6, 1, 3, 5, 7};

std::uint32_t pack_word(const std::uint8_t* codes) {
  std::uint32_t word = 0;
  for (std::size_t i = 0; i < order.size(); ++i) word |= static_cast<std::uint32_t>(codes[order[i]]) << (4 * i);
  return word;
}

/// Where the code of an output of the eight begins.
constexpr std::array<int, in_a_word> shift_of = {0, 16, 4, 20, 8, 24, 12, 28};

class AwqMatrix final : public PackedMatrix {
 public:
  static Result<std::unique_ptr<const PackedMatrix>> open(const Checkpoint& c, const std::string& module,
                                                          std::int64_t group_size) {
    const TensorView& qweight = *c.find(module + ".qweight");
    if (qweight.dtype != DType::i32 || qweight.shape.size() != 2 || qweight.elements() == 0 ||
        qweight.elements() > std::numeric_limits<std::int64_t>::max() / 64)
      return bad_tensor(c, qweight.name,
                        fmt::format("is {} {}, expected i32 words in two dimensions", info(qweight.dtype).name,
                                    shape_text(qweight.shape)));
    const std::int64_t in = qweight.shape[0], out = qweight.shape[1] * in_a_word;
    const std::int64_t span = group_size == -1 ? in : group_size;
    if (in % span != 0)
      return bad_tensor(c, qweight.name, fmt::format("is for {} inputs, which groups of {} do not divide", in, span));
    const std::int64_t groups = in / span;
    FETTLE_ASSIGN(const TensorView* const qzeros,
                  require_tensor(c, module + ".qzeros", DType::i32, {groups, out / in_a_word}));
    FETTLE_TRY(read_scales(c, module + ".scales", {{groups, out}}));
    return std::unique_ptr<const PackedMatrix>(
        new AwqMatrix(out, in, groups, qweight, *c.find(module + ".scales"), *qzeros));
  }

  void read(std::int64_t first, MutMatrix out) const override {
    const std::int64_t n = out.rows, from = first / in_a_word, to = (first + n - 1) / in_a_word + 1, width = to - from;
    // Words of a column of the matrix stand together in the file, those of a row here.
    std::vector<std::uint32_t> words(static_cast<std::size_t>(width * cols()));
    for (std::int64_t j = 0; j < cols(); ++j)
      for (std::int64_t k = 0; k < width; ++k)
        words[static_cast<std::size_t>(k * cols() + j)] = word_at(qweight_, j * (rows() / in_a_word) + from + k);
    std::vector<float> scales(static_cast<std::size_t>(groups_ * n));  // [groups, n]
    for (std::int64_t g = 0; g < groups_; ++g)
      info(scales_.dtype)
          .to_f32(scales_.bytes.data() + bytes_of(scales_.dtype, static_cast<std::uint64_t>(g * rows() + first)),
                  scales.data() + g * n, static_cast<std::size_t>(n));
    GridRow grids(groups_);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t word = (first + i) / in_a_word;
      const int shift = shift_of[static_cast<std::size_t>((first + i) % in_a_word)];
      for (std::int64_t g = 0; g < groups_; ++g) {
        grids.scales[static_cast<std::size_t>(g)] = scales[static_cast<std::size_t>(g * n + i)];
        grids.zeros[static_cast<std::size_t>(g)] =
            static_cast<std::int32_t>(word_at(qzeros_, g * (rows() / in_a_word) + word) >> shift & 15U);
      }
      grids.values(out.row(i), words.data() + (word - from) * cols(), shift);
    }
  }

 private:
  AwqMatrix(std::int64_t out, std::int64_t in, std::int64_t groups, const TensorView& qweight, const TensorView& scales,
            const TensorView& qzeros)
      : PackedMatrix(out, in), groups_(groups), qweight_(qweight), scales_(scales), qzeros_(qzeros) {}

  std::int64_t groups_;
  TensorView qweight_, scales_, qzeros_;
};

Status refuse(const Checkpoint& c, const std::string& problem) {
  return {Code::unsupported, fmt::format("{}/config.json: quantization_config: {}", c.folder(), problem)};
}

Result<std::vector<PackedWeight>> open_awq(const Checkpoint& c) {
  const Json& config = *quantization_config(c);
  const auto given = [&](const char* key) {
    const auto found = config.find(key);
    return found != config.end() ? *found : Json();
  };
  const Json bits = given("bits"), group = given("group_size"), version = given("version");
  if (bits != 4) return refuse(c, fmt::format("bits is {}, but AWQ files hold 4", bits.dump()));
  if (!group.is_number_integer() || (group != -1 && group < 1))
    return refuse(c, fmt::format("group_size is {}, expected -1 or a positive number", group.dump()));
  if (!version.is_null() && version != "gemm" && version != "GEMM")
    return refuse(c, fmt::format("version {} cannot be read; known is \"gemm\"", version.dump()));
  std::vector<PackedWeight> weights;
  for (const TensorView* t : c.tensors()) {
    if (!t->name.ends_with(packed_suffix)) continue;
    const std::string module = t->name.substr(0, t->name.size() - packed_suffix.size());
    PackedWeight weight{module + ".weight", {module + ".qweight", module + ".qzeros", module + ".scales"}, nullptr};
    FETTLE_ASSIGN(weight.matrix, AwqMatrix::open(c, module, group.get<std::int64_t>()));
    weights.push_back(std::move(weight));
  }
  return weights;
}

}  // namespace

const QuantizedLayout awq_layout = {"awq", [](const Checkpoint& c) { return has_quant_method(c, "awq"); }, &open_awq};

std::vector<TensorSpec> awq_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                  const GridScheme& s) {
  const std::int64_t groups = s.groups(cols);
  return {{module + ".qweight", DType::i32, {cols, rows / in_a_word}},
          {module + ".qzeros", DType::i32, {groups, rows / in_a_word}},
          {module + ".scales", DType::f16, {groups, rows}}};
}

std::vector<std::vector<std::byte>> pack_awq(const CodedMatrix& m) {
  const std::int64_t width = m.rows / in_a_word;
  std::vector<std::uint32_t> qweight(static_cast<std::size_t>(m.cols * width));
  // 16 words at a time: a cache line of every row of them.
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, (width + 15) / 16), [&](const auto& range) {
    for (std::int64_t part = range.begin(); part < range.end(); ++part)
      for (std::int64_t j = 0; j < m.cols; ++j)
        for (std::int64_t word = part * 16; word < std::min(width, (part + 1) * 16); ++word) {
          std::uint8_t codes[in_a_word];
          for (std::int64_t k = 0; k < in_a_word; ++k)
            codes[k] = m.codes[static_cast<std::size_t>((word * in_a_word + k) * m.cols + j)];
          qweight[static_cast<std::size_t>(j * width + word)] = pack_word(codes);
        }
  });
  std::vector<std::uint32_t> qzeros(static_cast<std::size_t>(m.groups * width));
  std::vector<float> scales(static_cast<std::size_t>(m.groups * m.rows));
  for (std::int64_t g = 0; g < m.groups; ++g) {
    std::vector<std::uint8_t> zeros(static_cast<std::size_t>(m.rows));
    for (std::int64_t i = 0; i < m.rows; ++i) {
      const Steps s = m.steps(i, g);
      zeros[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(s.zero);
      scales[static_cast<std::size_t>(g * m.rows + i)] = s.scale;
    }
    for (std::int64_t word = 0; word < width; ++word)
      qzeros[static_cast<std::size_t>(g * width + word)] = pack_word(zeros.data() + word * in_a_word);
  }
  std::vector<std::byte> halves(scales.size() * 2);
  info(DType::f16).from_f32(scales.data(), halves.data(), scales.size());
  return {as_bytes(qweight), as_bytes(qzeros), std::move(halves)};
}

Json awq_config(const GridScheme& scheme, const std::vector<std::string>& dense_modules) {
  return {{"quant_method", "awq"},
          {"bits", scheme.bits},
          {"group_size", scheme.sharing == Sharing::group ? scheme.group_size : -1},
          {"zero_point", true},  // the file always holds zeros; a symmetric grid's are 8
          {"version", "gemm"},
          {"modules_to_not_convert", dense_modules}};
}

}  // namespace fettle::kit
