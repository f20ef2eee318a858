// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/compress/fake_quant.h"

#include "fettle_kit/compress/gguf_blocks.h"
#include "fettle_kit/tensor/dtype.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace fettle::kit {
namespace {

/// Calls body(row, weights of the row as f32), rows at the same time on several threads.
template <class Body>
void for_rows(const StoredMatrix& w, const Body& body) {
  const DTypeInfo& type = info(w.dtype);
  const std::int64_t row_bytes = w.cols / type.block_elems * type.block_bytes;
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, w.rows, 16), [&](const auto& range) {
    std::vector<float> row(static_cast<std::size_t>(w.cols));
    for (std::int64_t i = range.begin(); i < range.end(); ++i) {
      type.to_f32(w.data + i * row_bytes, row.data(), row.size());
      body(i, std::span<const float>(row));
    }
  });
}

class FakeGguf final : public FakeQuantizer {
 public:
  explicit FakeGguf(DType type) : type_(type) {}

  void quantize(MutMatrix used, const StoredMatrix& w, float) const override {
    const DTypeInfo& type = info(type_);
    for_rows(w, [&](std::int64_t i, std::span<const float> row) {
      std::vector<std::byte> stored(row.size() / static_cast<std::size_t>(type.block_elems) *
                                    static_cast<std::size_t>(type.block_bytes));
      if (type.block_elems > 1)
        quantize_rows(type_, row.data(), stored.data(), 1, w.cols, nullptr);
      else
        type.from_f32(row.data(), stored.data(), row.size());
      type.to_f32(stored.data(), used.row(i).data(), row.size());
    });
  }

  void clip_gradient(MutMatrix gradient, const StoredMatrix& w, float) const override {
    if (type_ != DType::q4_0 && type_ != DType::q5_0) return;
    // Codes -8 .. 7 (or -16 .. 15) times max / -8: on the side away from `max` the grid ends at 7/8 of it, and half a
    // step farther the end decides.
    const float share = type_ == DType::q4_0 ? 7.5F / 8 : 15.5F / 16;
    const auto block = static_cast<std::size_t>(info(type_).block_elems);
    for_rows(w, [&](std::int64_t i, std::span<const float> row) {
      const auto g = gradient.row(i);
      for (std::size_t first = 0; first < row.size(); first += block) {
        float largest = 0;
        for (std::size_t j = first; j < first + block; ++j)
          if (std::fabs(row[j]) > std::fabs(largest)) largest = row[j];
        for (std::size_t j = first; j < first + block; ++j)
          if (std::signbit(row[j]) != std::signbit(largest) && std::fabs(row[j]) > share * std::fabs(largest)) g[j] = 0;
      }
    });
  }

 private:
  DType type_;
};

class FakeGrid final : public FakeQuantizer {
 public:
  explicit FakeGrid(const GridScheme& scheme) : scheme_(scheme) {}

  void quantize(MutMatrix used, const StoredMatrix& w, float) const override {
    const CodedMatrix grid = coded(w, used);
    tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) { grid.read(i, used.rows_from(i, 1)); });
  }

  void clip_gradient(MutMatrix gradient, const StoredMatrix& w, float) const override {
    std::vector<float> room(static_cast<std::size_t>(w.rows * w.cols));
    const MutMatrix weights(room.data(), w.rows, w.cols);
    const CodedMatrix grid = coded(w, weights);
    tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) {
      for (std::int64_t j = 0; j < w.cols; ++j) {
        const Steps steps = grid.steps(i, grid.group_of[static_cast<std::size_t>(j)]);
        // Beyond half a step from its code: the end of the grid held it back. A little more is rounding of the
        // quotient.
        if (std::fabs(weights(i, j) - grid.value(i, j)) > 0.500001F * steps.scale) gradient(i, j) = 0;
      }
    });
  }

 private:
  /// Codes of w; `weights` becomes w as f32.
  CodedMatrix coded(const StoredMatrix& w, MutMatrix weights) const {
    for_rows(w, [&](std::int64_t i, std::span<const float> row) {
      std::copy(row.begin(), row.end(), weights.row(i).begin());
    });
    return round_to_grid(weights, scheme_);
  }

  GridScheme scheme_;
};

class FakeFloats final : public FakeQuantizer {
 public:
  explicit FakeFloats(const FloatScheme& scheme) : scheme_(scheme) {}

  void quantize(MutMatrix used, const StoredMatrix& w, float magnitude) const override {
    const FloatMatrix matrix = rounded(w, magnitude);
    const FloatView view = matrix.view();
    tbb::parallel_for(std::int64_t{0}, w.rows, [&](std::int64_t i) { view.read(i, used.rows_from(i, 1)); });
  }

  void clip_gradient(MutMatrix gradient, const StoredMatrix& w, float magnitude) const override {
    // A matrix of ones by the same scales tells what a step is.
    FloatMatrix matrix = rounded(w, magnitude);
    // The largest number and half the step that would follow: 448 + 16 or 6 + 1.
    const float end = scheme_.packed() ? e2m1_max + 1 : e4m3_max + 16;
    std::ranges::fill(matrix.codes, scheme_.packed() ? std::uint8_t{0x22} : std::uint8_t{0x38});
    const FloatView view = matrix.view();
    for_rows(w, [&](std::int64_t i, std::span<const float> row) {
      std::vector<float> scales(row.size());
      view.read(i, MutMatrix(scales.data(), 1, w.cols));
      for (std::int64_t j = 0; j < w.cols; ++j)
        if (std::fabs(row[static_cast<std::size_t>(j)]) > end * scales[static_cast<std::size_t>(j)]) gradient(i, j) = 0;
    });
  }

 private:
  FloatMatrix rounded(const StoredMatrix& w, float magnitude) const {
    const std::uint64_t bytes = bytes_of(w.dtype, static_cast<std::uint64_t>(w.rows * w.cols));
    const TensorView view{"", w.dtype, {w.rows, w.cols}, {w.data, static_cast<std::size_t>(bytes)}};
    return *round_to_floats(view, scheme_, magnitude);  // finite, so it cannot fail
  }

  FloatScheme scheme_;
};

}  // namespace

std::unique_ptr<FakeQuantizer> fake_gguf(DType type) { return std::make_unique<FakeGguf>(type); }
std::unique_ptr<FakeQuantizer> fake_grid(const GridScheme& scheme) { return std::make_unique<FakeGrid>(scheme); }
std::unique_ptr<FakeQuantizer> fake_floats(const FloatScheme& scheme) { return std::make_unique<FakeFloats>(scheme); }

}  // namespace fettle::kit
