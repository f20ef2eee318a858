// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/gptq_layout.h"

#include "fettle_kit/compress/grid_row.h"
#include "fettle_kit/compress/packing.h"
#include "fettle_kit/io/message.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <limits>

namespace fettle::kit {
namespace {

constexpr std::string_view packed_suffix = ".qweight";

/// The word that v1 files are short by in each field: zero - 1 is stored, word by word, so that a borrow crosses fields
/// and the addition that undoes it carries back.
std::uint32_t one_in_each_field(int bits) {
  std::uint32_t word = 0;
  for (int at = 0; at < 32; at += bits) word |= 1U << at;
  return word;
}

class GptqMatrix final : public PackedMatrix {
 public:
  static Result<std::unique_ptr<const PackedMatrix>> open(const Checkpoint& c, const std::string& module, int bits,
                                                          GptqVersion version) {
    const TensorView& qweight = *c.find(module + ".qweight");
    if (qweight.dtype != DType::i32 || qweight.shape.size() != 2 || qweight.elements() == 0 ||
        qweight.elements() > std::numeric_limits<std::int64_t>::max() / 64)
      return bad_tensor(c, qweight.name,
                        fmt::format("is {} {}, expected i32 words in two dimensions", info(qweight.dtype).name,
                                    shape_text(qweight.shape)));
    const std::int64_t height = qweight.shape[0], out = qweight.shape[1];
    const TensorView* const index = c.find(module + ".g_idx");
    std::int64_t in = height * 32 / bits;
    if (index != nullptr) {  // tells the bits of a matrix that `dynamic` excepts
      in = index->elements();
      if (index->dtype != DType::i32 || index->shape.size() != 1 || in == 0 || height * 32 % in != 0)
        return bad_tensor(c, index->name,
                          fmt::format("is {} {}, expected i32 with one entry for each input of {} rows of words",
                                      info(index->dtype).name, shape_text(index->shape), height));
      const std::int64_t told = height * 32 / in;
      if (told != 2 && told != 3 && told != 4 && told != 8)
        return bad_tensor(c, qweight.name, fmt::format("has {} bits a weight, expected 2, 3, 4 or 8", told));
      bits = static_cast<int>(told);
    }
    if (in % 32 != 0)
      return bad_tensor(c, qweight.name, fmt::format("is for {} inputs, expected a multiple of 32", in));

    const TensorView* const scales = c.find(module + ".scales");
    if (scales == nullptr || scales->shape.size() != 2 || scales->shape[1] != out || scales->shape[0] == 0 ||
        !is_float(scales->dtype))
      return bad_tensor(c, module + ".scales",
                        scales == nullptr ? "is missing"
                                          : fmt::format("is {} {}, expected floats [groups, {}]",
                                                        info(scales->dtype).name, shape_text(scales->shape), out));
    const std::int64_t groups = scales->shape[0];
    FETTLE_ASSIGN(const TensorView* const qzeros,
                  require_tensor(c, module + ".qzeros", DType::i32, {groups, words_for(out, bits)}));

    auto matrix =
        std::unique_ptr<GptqMatrix>(new GptqMatrix(out, in, groups, bits, version, qweight, *scales, *qzeros));
    const std::int64_t span = std::max<std::int64_t>(1, in / groups);
    bool neighbours = in % groups == 0;
    for (std::int64_t j = 0; j < in; ++j) {
      const auto group = static_cast<std::int32_t>(index != nullptr ? word_at(*index, j) : j / span);
      if (group < 0 || group >= groups)
        return bad_tensor(c, index != nullptr ? index->name : scales->name,
                          fmt::format("puts input {} into group {}, but there are {}", j, group, groups));
      matrix->group_of_[static_cast<std::size_t>(j)] = group;
      neighbours = neighbours && group == j / span;
    }
    if (neighbours) matrix->group_of_.clear();
    return std::unique_ptr<const PackedMatrix>(std::move(matrix));
  }

  void read(std::int64_t first, MutMatrix out) const override {
    const std::int64_t height = cols() / 32 * bits_, n = out.rows;
    // A row of the matrix after the other; apart by an odd number of cache lines, so that they share no sets.
    const std::int64_t stride = (height + 15) / 32 * 32 + 16;
    std::vector<std::uint32_t> words(static_cast<std::size_t>(n * stride));
    for (std::int64_t k = 0; k < height; ++k)
      for (std::int64_t i = 0; i < n; ++i)
        words[static_cast<std::size_t>(i * stride + k)] = word_at(qweight_, k * rows() + first + i);
    std::vector<float> scales(static_cast<std::size_t>(n * groups_));  // [groups, n]
    for (std::int64_t g = 0; g < groups_; ++g)
      info(scales_.dtype)
          .to_f32(scales_.bytes.data() + bytes_of(scales_.dtype, static_cast<std::uint64_t>(g * rows() + first)),
                  scales.data() + g * n, static_cast<std::size_t>(n));
    GridRow grids(groups_, 0, group_of_);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols()));
    for (std::int64_t i = 0; i < n; ++i) {
      unpack_codes({words.data() + i * stride, static_cast<std::size_t>(height)}, bits_, codes);
      for (std::int64_t g = 0; g < groups_; ++g) {
        grids.scales[static_cast<std::size_t>(g)] = scales[static_cast<std::size_t>(g * n + i)];
        grids.zeros[static_cast<std::size_t>(g)] = zero(g, first + i);
      }
      grids.values(out.row(i), codes.data());
    }
  }

 private:
  GptqMatrix(std::int64_t out, std::int64_t in, std::int64_t groups, int bits, GptqVersion version,
             const TensorView& qweight, const TensorView& scales, const TensorView& qzeros)
      : PackedMatrix(out, in),
        groups_(groups),
        bits_(bits),
        version_(version),
        qweight_(qweight),
        scales_(scales),
        qzeros_(qzeros),
        group_of_(static_cast<std::size_t>(in)) {}

  /// Those of a group are a stream of bits along its row of words.
  std::int32_t zero(std::int64_t group, std::int64_t row) const {
    const bool by_word = bits_ != 3, short_by_one = version_ == GptqVersion::v1;
    const std::int64_t bit = row * bits_, word = group * qzeros_.shape[1] + bit / 32;
    std::uint64_t stream = word_at(qzeros_, word) + (short_by_one && by_word ? one_in_each_field(bits_) : 0U);
    if (bit % 32 + bits_ > 32) stream |= std::uint64_t{word_at(qzeros_, word + 1)} << 32;
    return static_cast<std::int32_t>(stream >> (bit % 32) & ((1U << bits_) - 1)) + (short_by_one && !by_word ? 1 : 0);
  }

  std::int64_t groups_;
  int bits_;
  GptqVersion version_;
  TensorView qweight_, scales_, qzeros_;
  std::vector<std::int32_t> group_of_;  // empty: that of the neighbours
};

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Result<std::vector<PackedWeight>> open_gptq(const Checkpoint& c) {
  const Json& config = *quantization_config(c);
  const auto bits = config.find("bits");
  if (bits == config.end() || !bits->is_number_integer() || (*bits != 2 && *bits != 3 && *bits != 4 && *bits != 8))
    return Status(Code::unsupported,
                  fmt::format("{}/config.json: quantization_config: bits is {}, expected 2, 3, 4 or 8", c.folder(),
                              bits == config.end() ? "missing" : bits->dump()));
  std::string format = text_of(config, "checkpoint_format");
  if (format.empty()) format = text_of(config, "format");
  if (!format.empty() && format != "gptq" && format != "gptq_v2")
    return Status(Code::unsupported,
                  fmt::format("{}/config.json: quantization_config: checkpoint_format {} cannot be read; known are "
                              "'gptq' and 'gptq_v2'",
                              c.folder(), in_quotes(format)));
  const GptqVersion version = format == "gptq_v2" ? GptqVersion::v2 : GptqVersion::v1;
  std::vector<PackedWeight> weights;
  for (const TensorView* t : c.tensors()) {
    if (!t->name.ends_with(packed_suffix)) continue;
    const std::string module = t->name.substr(0, t->name.size() - packed_suffix.size());
    PackedWeight weight{module + ".weight", {}, nullptr};
    FETTLE_ASSIGN(weight.matrix, GptqMatrix::open(c, module, bits->get<int>(), version));
    for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"})
      if (c.find(module + part) != nullptr) weight.parts.push_back(module + part);
    weights.push_back(std::move(weight));
  }
  return weights;
}

std::string exactly(std::string_view sign, const std::string& module) {
  std::string pattern(sign);
  pattern += '^';
  for (const char c : module) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return pattern + '$';
}

std::int64_t group_size_of(const GridScheme& scheme) {
  return scheme.sharing == Sharing::group ? scheme.group_size : -1;
}

}  // namespace

const QuantizedLayout gptq_layout = {"gptq", [](const Checkpoint& c) { return has_quant_method(c, "gptq"); },
                                     &open_gptq};

std::vector<TensorSpec> gptq_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                   const GridScheme& s) {
  const std::int64_t groups = s.groups(cols);
  return {{module + ".qweight", DType::i32, {words_for(cols, s.bits), rows}},
          {module + ".qzeros", DType::i32, {groups, words_for(rows, s.bits)}},
          {module + ".scales", DType::f16, {groups, rows}},
          {module + ".g_idx", DType::i32, {cols}}};
}

std::vector<std::vector<std::byte>> pack_gptq(const CodedMatrix& m, GptqVersion version) {
  const std::int64_t height = words_for(m.cols, m.bits), width = words_for(m.rows, m.bits);
  std::vector<std::uint32_t> qweight(static_cast<std::size_t>(height * m.rows));
  // 16 outputs at a time: a cache line of every row of words.
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, (m.rows + 15) / 16, 4), [&](const auto& range) {
    std::vector<std::uint32_t> rows(static_cast<std::size_t>(16 * height));
    for (std::int64_t part = range.begin(); part < range.end(); ++part) {
      const std::int64_t first = part * 16, n = std::min<std::int64_t>(16, m.rows - first);
      for (std::int64_t i = 0; i < n; ++i)
        pack_codes({m.codes.data() + (first + i) * m.cols, static_cast<std::size_t>(m.cols)}, m.bits,
                   {rows.data() + i * height, static_cast<std::size_t>(height)});
      for (std::int64_t k = 0; k < height; ++k)
        for (std::int64_t i = 0; i < n; ++i)
          qweight[static_cast<std::size_t>(k * m.rows + first + i)] = rows[static_cast<std::size_t>(i * height + k)];
    }
  });

  std::vector<std::uint32_t> qzeros(static_cast<std::size_t>(m.groups * width));
  std::vector<float> scales(static_cast<std::size_t>(m.groups * m.rows));
  std::vector<std::uint8_t> zero_row(static_cast<std::size_t>(m.rows));
  const int offset = version == GptqVersion::v1 ? 1 : 0;
  for (std::int64_t g = 0; g < m.groups; ++g) {
    for (std::int64_t i = 0; i < m.rows; ++i) {
      const Steps s = m.steps(i, g);
      zero_row[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(s.zero - offset);
      scales[static_cast<std::size_t>(g * m.rows + i)] = s.scale;
    }
    pack_codes(zero_row, m.bits, {qzeros.data() + g * width, static_cast<std::size_t>(width)});
  }
  std::vector<std::byte> halves(scales.size() * 2);
  info(DType::f16).from_f32(scales.data(), halves.data(), scales.size());
  return {as_bytes(qweight), as_bytes(qzeros), std::move(halves), as_bytes(m.group_of)};
}

Json gptq_config(const GptqFormat& f, const std::vector<ModuleScheme>& modules,
                 const std::vector<std::string>& dense_modules) {
  const char* const format = f.version == GptqVersion::v1 ? "gptq" : "gptq_v2";
  Json dynamic = Json::object();
  for (const ModuleScheme& m : modules)
    if (m.scheme.bits != f.scheme.bits || group_size_of(m.scheme) != group_size_of(f.scheme))
      dynamic[exactly("+:", m.module)] = {{"bits", m.scheme.bits}, {"group_size", group_size_of(m.scheme)}};
  bool head = false;
  for (const ModuleScheme& m : modules) head = head || m.module == "lm_head";
  for (const std::string& module : dense_modules)
    if (module != "lm_head") dynamic[exactly("-:", module)] = Json::object();
  Json config = {{"quant_method", "gptq"},
                 {"bits", f.scheme.bits},
                 {"group_size", group_size_of(f.scheme)},
                 {"desc_act", f.act_order},
                 {"sym", f.scheme.symmetric},
                 {"lm_head", head},
                 {"checkpoint_format", format},
                 {"format", format},
                 {"pack_dtype", "int32"},
                 {"true_sequential", f.true_sequential},
                 {"static_groups", f.static_groups},
                 {"meta", {{"quantizer", {"fettle:0.1.0"}}}}};
  if (f.damping > 0) config["damp_percent"] = f.damping;  // gptqmodel 7 refuses 0
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  return config;
}

}  // namespace fettle::kit
