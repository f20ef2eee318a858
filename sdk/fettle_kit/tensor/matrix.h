// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fettle::kit {

/// A borrowed row-major f32 matrix [rows, cols]; consecutive rows are `stride` floats apart.
struct ConstMatrix {
  const float* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  ConstMatrix() = default;
  ConstMatrix(const float* d, std::int64_t r, std::int64_t c) : data(d), rows(r), cols(c), stride(c) {}
  ConstMatrix(const float* d, std::int64_t r, std::int64_t c, std::int64_t s) : data(d), rows(r), cols(c), stride(s) {}

  std::span<const float> row(std::int64_t i) const { return {data + i * stride, static_cast<std::size_t>(cols)}; }
  float operator()(std::int64_t i, std::int64_t j) const { return data[i * stride + j]; }
  ConstMatrix rows_from(std::int64_t first, std::int64_t count) const {
    return {data + first * stride, count, cols, stride};
  }
};

/// The same, writable.
struct MutMatrix {
  float* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  MutMatrix() = default;
  MutMatrix(float* d, std::int64_t r, std::int64_t c) : data(d), rows(r), cols(c), stride(c) {}
  MutMatrix(float* d, std::int64_t r, std::int64_t c, std::int64_t s) : data(d), rows(r), cols(c), stride(s) {}

  operator ConstMatrix() const {
    return {data, rows, cols, stride};
  }  // NOLINT(google-explicit-constructor): a view of it
  std::span<float> row(std::int64_t i) const { return {data + i * stride, static_cast<std::size_t>(cols)}; }
  float& operator()(std::int64_t i, std::int64_t j) const { return data[i * stride + j]; }
  MutMatrix rows_from(std::int64_t first, std::int64_t count) const {
    return {data + first * stride, count, cols, stride};
  }
};

}  // namespace fettle::kit
