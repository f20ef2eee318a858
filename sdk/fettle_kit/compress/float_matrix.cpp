// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/float_matrix.h"

#include "fettle_kit/compress/quantization.h"
#include "fettle_kit/kernels/kernels.h"

#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>

namespace fettle::kit {
namespace {

constexpr std::int64_t portion = 16;  // rows a task
static_assert(fp8_block % portion == 0);

std::int64_t divided_up(std::int64_t n, std::int64_t d) { return (n + d - 1) / d; }

/// Row i of a tensor as f32.
void read_row(const TensorView& t, std::int64_t i, std::span<float> out) {
  const std::uint64_t row_bytes = bytes_of(t.dtype, out.size());
  const std::byte* const from = t.bytes.data() + static_cast<std::uint64_t>(i) * row_bytes;
  if (t.dtype == DType::bf16 && reinterpret_cast<std::uintptr_t>(from) % alignof(std::uint16_t) == 0)
    kernels().bf16_to_f32(out.data(), reinterpret_cast<const std::uint16_t*>(from), out.size());
  else
    info(t.dtype).to_f32(from, out.data(), out.size());
}

/// Calls fn(first row, row after the last) for portions of `size` rows, in parallel.
template <class Fn>
void by_portions(std::int64_t rows, std::int64_t size, const Fn& fn) {
  tbb::parallel_for(std::int64_t{0}, divided_up(rows, size),
                    [&](std::int64_t p) { fn(p * size, std::min(rows, (p + 1) * size)); });
}

/// The codes of row i by the scales that the matrix has. Returns sum (x - value)^2.
double encode_row(FloatMatrix& m, std::int64_t i, std::span<const float> x) {
  const std::uint8_t* const block_scales = m.block_scales.data() + i * (m.cols / m.scheme.block());
  if (m.scheme.kind == FloatKind::nvfp4)
    return static_cast<double>(encode_nvfp4(x, m.divisor, block_scales, m.codes.data() + i * m.cols / 2));
  if (m.scheme.kind == FloatKind::mxfp4)
    return static_cast<double>(encode_mxfp4(x, block_scales, m.codes.data() + i * m.cols / 2));
  const FloatView v = m.view();
  const std::int64_t across = divided_up(m.cols, v.scale_cols);
  double error = 0;
  for (std::int64_t b = 0; b < across; ++b) {
    const std::int64_t first = b * v.scale_cols, count = std::min(v.scale_cols, m.cols - first);
    error +=
        static_cast<double>(encode_e4m3(x.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                                        v.scales[i / v.scale_rows * across + b], m.codes.data() + i * m.cols + first));
  }
  return error;
}

/// Fits the scales of row i; those of a tensor or of square blocks are there already.
void fit_row(FloatMatrix& m, std::int64_t i, std::span<const float> x, float magnitude) {
  std::uint8_t* const blocks = m.block_scales.data() + i * (m.cols / m.scheme.block());
  switch (m.scheme.kind) {
    case FloatKind::fp8:
      if (m.scheme.sharing == Fp8Sharing::channel)
        m.scales[static_cast<std::size_t>(i)] = fp8_scale(magnitude, m.scheme.scale_type);
      return;
    case FloatKind::nvfp4:
      return nvfp4_scales(x, m.divisor, m.scheme.block_scale, nullptr, blocks);
    case FloatKind::mxfp4:
      return mxfp4_scales(x, m.scheme.power_scale, blocks);
  }
}

/// Fits the scales of the square blocks of some rows.
void fit_blocks(FloatMatrix& m, const TensorView& w, std::int64_t first, std::int64_t end, std::span<float> row) {
  const std::int64_t across = divided_up(m.cols, fp8_block);
  float* const scales = m.scales.data() + first / fp8_block * across;
  std::fill(scales, scales + across, 0.0F);
  for (std::int64_t i = first; i < end; ++i) {
    read_row(w, i, row);
    for (std::int64_t b = 0; b < across; ++b) {
      const auto from = static_cast<std::size_t>(b * fp8_block);
      scales[b] = std::max(scales[b],
                           largest_magnitude(row.subspan(from, std::min<std::size_t>(fp8_block, row.size() - from))));
    }
  }
  for (std::int64_t b = 0; b < across; ++b) scales[b] = fp8_scale(scales[b], m.scheme.scale_type);
}

class PackedFloats final : public PackedMatrix {
 public:
  PackedFloats(const FloatView& view, std::vector<float> scales)
      : PackedMatrix(view.rows, view.cols), view_(view), scales_(std::move(scales)) {
    view_.scales = scales_.data();
  }
  void read(std::int64_t first, MutMatrix out) const override { view_.read(first, out); }

 private:
  FloatView view_;
  std::vector<float> scales_;
};

}  // namespace

std::unique_ptr<const PackedMatrix> packed_floats(const FloatView& view, std::vector<float> scales) {
  return std::make_unique<PackedFloats>(view, std::move(scales));
}

void FloatView::read(std::int64_t first, MutMatrix out) const {
  const std::int64_t block = kind == FloatKind::nvfp4 ? nvfp4_block : mxfp4_block;
  const std::int64_t across = kind == FloatKind::fp8 ? divided_up(cols, scale_cols) : cols / block;
  std::vector<float> factors(static_cast<std::size_t>(kind == FloatKind::fp8 ? 0 : across));
  std::array<float, 256> factor_of{};  // of every code of a block's scale
  if (kind != FloatKind::fp8)
    for (std::size_t code = 0; code < factor_of.size(); ++code) {
      const auto byte = static_cast<std::uint8_t>(code);
      factor_of[code] = kind == FloatKind::mxfp4 ? from_e8m0(byte)
                        : divides                ? from_e4m3(byte) / tensor_scale
                                                 : from_e4m3(byte) * tensor_scale;
    }
  for (std::int64_t i = 0; i < out.rows; ++i) {
    const std::int64_t row = first + i;
    if (kind == FloatKind::fp8) {
      for (std::int64_t b = 0; b < across; ++b) {
        const std::int64_t from = b * scale_cols, count = std::min(scale_cols, cols - from);
        decode_e4m3(codes + row * cols + from, scales[row / scale_rows * across + b],
                    {out.row(i).data() + from, static_cast<std::size_t>(count)});
      }
      continue;
    }
    const std::uint8_t* const coded = block_scales + row * across;
    for (std::size_t b = 0; b < factors.size(); ++b) factors[b] = factor_of[coded[b]];
    decode_e2m1(codes + row * cols / 2, block, factors.data(), out.row(i));
  }
}

FloatView FloatMatrix::view() const {
  FloatView v;
  v.kind = scheme.kind;
  v.rows = rows;
  v.cols = cols;
  v.codes = codes.data();
  v.scales = scales.data();
  v.scale_rows = scheme.sharing == Fp8Sharing::tensor ? rows : scheme.sharing == Fp8Sharing::channel ? 1 : fp8_block;
  v.scale_cols = scheme.sharing == Fp8Sharing::block ? fp8_block : cols;
  v.block_scales = block_scales.data();
  v.divides = !scheme.reciprocal;
  v.tensor_scale = scheme.reciprocal ? 1 / divisor : divisor;
  return v;
}

float largest_magnitude(const TensorView& w) {
  std::vector<float> of_rows(static_cast<std::size_t>(w.rows()));
  by_portions(w.rows(), portion, [&](std::int64_t first, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(w.cols()));
    for (std::int64_t i = first; i < end; ++i) {
      read_row(w, i, row);
      of_rows[static_cast<std::size_t>(i)] = largest_magnitude(row);
    }
  });
  return largest_magnitude(of_rows);
}

float fp8_scale(float magnitude, DType type) {
  if (magnitude == 0) return 1;
  float scale = magnitude / e4m3_max;
  std::array<std::byte, 4> stored{};
  info(type).from_f32(&scale, stored.data(), 1);
  info(type).to_f32(stored.data(), &scale, 1);
  // A scale of zero or nearly so would stretch its rounding error over all weights.
  return std::max(scale, type == DType::f16 ? 0x1p-14F : std::numeric_limits<float>::min());
}

Result<FloatMatrix> round_to_floats(const TensorView& w, const FloatScheme& scheme, float magnitude) {
  FloatMatrix m;
  m.scheme = scheme;
  m.rows = w.rows();
  m.cols = w.cols();
  const auto elements = static_cast<std::size_t>(w.elements());
  m.codes.resize(scheme.packed() ? elements / 2 : elements);
  if (scheme.packed()) {
    m.block_scales.resize(elements / static_cast<std::size_t>(scheme.block()));
  } else {
    const FloatView v = m.view();
    m.scales.resize(static_cast<std::size_t>(divided_up(m.rows, v.scale_rows) * divided_up(m.cols, v.scale_cols)));
  }
  if (scheme.kind == FloatKind::nvfp4) m.divisor = nvfp4_divisor(magnitude, scheme.block_scale);
  if (!scheme.packed() && scheme.sharing == Fp8Sharing::tensor) m.scales[0] = fp8_scale(magnitude, scheme.scale_type);

  const bool square = !scheme.packed() && scheme.sharing == Fp8Sharing::block;
  std::vector<double> errors(static_cast<std::size_t>(m.rows)), powers(errors.size());
  std::atomic<bool> finite = true;
  by_portions(m.rows, square ? fp8_block : portion, [&](std::int64_t first, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(m.cols));
    if (square) fit_blocks(m, w, first, end, row);
    for (std::int64_t i = first; i < end; ++i) {
      read_row(w, i, row);
      const float largest = largest_magnitude(row);
      if (!std::isfinite(largest)) {
        finite = false;
        return;
      }
      fit_row(m, i, row, largest);
      errors[static_cast<std::size_t>(i)] = encode_row(m, i, row);
      powers[static_cast<std::size_t>(i)] = static_cast<double>(sum_of_squares(row));
    }
  });
  if (!finite) return not_finite(w);
  for (const double e : errors) m.error += e;
  for (const double p : powers) m.power += p;
  return m;
}

FloatRounding::FloatRounding(const FloatMatrix& m) : kind_(m.scheme.kind) {
  const FloatView v = m.view();
  const bool packed = m.scheme.packed();
  scale_rows_ = packed ? 1 : v.scale_rows;
  scale_cols_ = packed ? m.scheme.block() : v.scale_cols;
  across_ = divided_up(m.cols, scale_cols_);
  if (!packed) scales_ = m.scales;
  for (const std::uint8_t code : m.block_scales)
    scales_.push_back(kind_ == FloatKind::mxfp4 ? from_e8m0(code)
                      : v.divides               ? from_e4m3(code) / v.tensor_scale
                                                : from_e4m3(code) * v.tensor_scale);
}

float FloatRounding::nearest(std::int64_t row, std::int64_t column, float w) const {
  const float scale = scales_[static_cast<std::size_t>(row / scale_rows_ * across_ + column / scale_cols_)];
  return (kind_ == FloatKind::fp8 ? from_e4m3(to_e4m3(w / scale)) : nearest_e2m1(w / scale)) * scale;
}

void encode_again(FloatMatrix& m, ConstMatrix w) {
  by_portions(m.rows, portion, [&](std::int64_t first, std::int64_t end) {
    for (std::int64_t i = first; i < end; ++i) encode_row(m, i, w.row(i));
  });
}

}  // namespace fettle::kit
