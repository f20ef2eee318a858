// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/compressed_tensors.h"

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
    FETTLE_ASSIGN(std::vector<float> scales, read_scales(c, m.name + ".weight_scale", {shape}));
    auto matrix = std::unique_ptr<SignedInts>(new SignedInts(rows, cols, groups, *weight));
    matrix->scales_ = std::move(scales);
    if (whole) matrix->scales_.resize(static_cast<std::size_t>(rows), matrix->scales_[0]);
    matrix->zeros_.resize(matrix->scales_.size());
    if (!m.weights.symmetric) {
      FETTLE_ASSIGN(const TensorView* const zeros, require_tensor(c, m.name + ".weight_zero_point", DType::i8, shape));
      for (std::size_t i = 0; i < matrix->zeros_.size(); ++i)
        matrix->zeros_[i] = static_cast<std::int8_t>(zeros->bytes[whole ? 0 : i]);
    }
    return std::unique_ptr<const PackedMatrix>(std::move(matrix));
  }

  void read(std::int64_t first, MutMatrix out) const override {
    const std::int64_t span = cols() / groups_;
    for (std::int64_t i = 0; i < out.rows; ++i)
      for (std::int64_t j = 0; j < cols(); ++j) {
        const auto at = static_cast<std::size_t>((first + i) * groups_ + j / span);
        const auto code = static_cast<std::int8_t>(weight_.bytes[static_cast<std::size_t>((first + i) * cols() + j)]);
        out(i, j) = scales_[at] * static_cast<float>(code - zeros_[at]);
      }
  }

 private:
  SignedInts(std::int64_t rows, std::int64_t cols, std::int64_t groups, const TensorView& weight)
      : PackedMatrix(rows, cols), groups_(groups), weight_(weight) {}

  std::int64_t groups_;
  TensorView weight_;
  std::vector<float> scales_;        // [rows, groups]
  std::vector<std::int32_t> zeros_;  // [rows, groups]
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
