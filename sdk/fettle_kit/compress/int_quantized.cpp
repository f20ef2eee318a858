// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/compressed_tensors.h"
#include "fettle_kit/compress/grid_row.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

namespace fettle::kit {
namespace {

/// Whole bytes, one a weight, as signed distances from a zero point.
class SignedInts final : public PackedMatrix {
 public:
  static Result<std::unique_ptr<const PackedMatrix>> open(const CompressedModule& m) {
    const Checkpoint& c = *m.checkpoint;
    const std::string name = m.name + ".weight";
    if (m.weights.type != "int" || m.weights.bits != 8)
      return bad_tensor(
          c, name,
          fmt::format("has weights of type {} with {} bits, expected int with 8", m.weights.type, m.weights.bits));
    const TensorView* const weight = c.find(name);
    if (weight == nullptr || weight->dtype != DType::i8 || weight->shape.size() != 2 || weight->elements() == 0)
      return bad_tensor(c, name,
                        weight == nullptr ? "is missing, expected i8 in two dimensions"
                                          : fmt::format("is {} {}, expected i8 in two dimensions",
                                                        info(weight->dtype).name, shape_text(weight->shape)));
    const std::int64_t rows = weight->rows(), cols = weight->cols();
    std::int64_t groups = 1;
    const bool whole = m.weights.strategy == "tensor";
    if (m.weights.strategy == "group") {
      if (m.weights.group_size < 1 || cols % m.weights.group_size != 0)
        return bad_tensor(c, name,
                          fmt::format("has rows of {}, which groups of {} do not divide", cols, m.weights.group_size));
      groups = cols / m.weights.group_size;
    } else if (!whole && m.weights.strategy != "channel") {
      return bad_tensor(c, name,
                        fmt::format("has strategy '{}', expected group, channel or tensor", m.weights.strategy));
    }
    const std::vector<std::int64_t> shape =
        whole ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{rows, groups};
    FETTLE_TRY(read_scales(c, m.name + ".weight_scale", {shape}));
    auto matrix =
        std::unique_ptr<SignedInts>(new SignedInts(rows, cols, groups, *weight, *c.find(m.name + ".weight_scale")));
    if (!m.weights.symmetric) {
      FETTLE_ASSIGN(const TensorView* const zeros, require_tensor(c, m.name + ".weight_zero_point", DType::i8, shape));
      matrix->zeros_ = *zeros;
    }
    return std::unique_ptr<const PackedMatrix>(std::move(matrix));
  }

  void read(std::int64_t first, MutMatrix out) const override {
    // Signed bytes from -128 on are unsigned ones from 0 on, 128 away.
    GridRow grids(groups_, 128);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols()));
    for (std::int64_t i = 0; i < out.rows; ++i) {
      const std::byte* const signs = weight_.bytes.data() + (first + i) * cols();
      for (std::size_t j = 0; j < codes.size(); ++j) codes[j] = static_cast<std::uint8_t>(signs[j] ^ std::byte{0x80});
      read_row_of_scales(scales_, first + i, grids.scales);
      if (zeros_)
        for (std::size_t g = 0; g < grids.zeros.size(); ++g) {
          const std::size_t at = zeros_->bytes.size() == 1 ? 0 : static_cast<std::size_t>((first + i) * groups_) + g;
          grids.zeros[g] = static_cast<std::int8_t>(zeros_->bytes[at]) + 128;
        }
      grids.values(out.row(i), codes.data());
    }
  }

 private:
  SignedInts(std::int64_t rows, std::int64_t cols, std::int64_t groups, const TensorView& weight,
             const TensorView& scales)
      : PackedMatrix(rows, cols), groups_(groups), weight_(weight), scales_(scales) {}

  std::int64_t groups_;
  TensorView weight_, scales_;
  std::optional<TensorView> zeros_;
};

}  // namespace

const CompressedFormat int_quantized = {
    "int-quantized",
    {"weight", "weight_scale", "weight_zero_point", "input_scale", "input_zero_point"},
    &SignedInts::open};

std::vector<TensorSpec> int_quantized_specs(const std::string& module, std::int64_t rows, std::int64_t cols,
                                            DType scale_type, bool fixed_inputs) {
  std::vector<TensorSpec> specs = {{module + ".weight", DType::i8, {rows, cols}},
                                   {module + ".weight_scale", scale_type, {rows, 1}}};
  if (fixed_inputs) specs.push_back({module + ".input_scale", scale_type, {1}});
  return specs;
}

std::vector<std::vector<std::byte>> int_quantized_bytes(const CodedMatrix& m, DType scale_type,
                                                        std::optional<float> input_scale) {
  std::vector<std::vector<std::byte>> all(2);
  all[0].resize(m.codes.size());
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, m.rows, 16), [&](const auto& range) {
    for (std::int64_t at = range.begin() * m.cols; at < range.end() * m.cols; ++at)
      all[0][static_cast<std::size_t>(at)] = static_cast<std::byte>(m.codes[static_cast<std::size_t>(at)] ^ 0x80);
  });
  all[1].resize(bytes_of(scale_type, m.scales.size()));
  info(scale_type).from_f32(m.scales.data(), all[1].data(), m.scales.size());
  if (input_scale) {
    all.emplace_back(bytes_of(scale_type, 1));
    info(scale_type).from_f32(&*input_scale, all[2].data(), 1);
  }
  return all;
}

Json int_quantized_args() {
  return {{"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"strategy", "channel"}, {"dynamic", false}};
}

Json int_quantized_input_args(bool fixed_inputs) {
  return {{"num_bits", 8},
          {"type", "int"},
          {"symmetric", true},
          {"strategy", fixed_inputs ? "tensor" : "token"},
          {"dynamic", !fixed_inputs}};
}

}  // namespace fettle::kit
