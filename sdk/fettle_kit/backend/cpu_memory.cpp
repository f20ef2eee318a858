// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/backend/cpu_memory.h"

#include <cstdio>
#include <cstdlib>
#include <new>

namespace fettle::kit::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};

void* address(const Array& x) { return static_cast<const HostStorage&>(*x.storage).data(); }
std::uint16_t* bf16_row(const Array& x, std::int64_t i) {
  return static_cast<std::uint16_t*>(address(x)) + x.offset + i * x.stride;
}

}  // namespace

HostStorage::HostStorage(std::size_t bytes) : data_(::operator new(bytes, kAlignment)) {}
HostStorage::~HostStorage() { ::operator delete(data_, kAlignment); }

void require(bool fits, const char* op) {
  if (fits) return;
  std::fprintf(stderr, "cpu backend: %s: arrays that do not fit together\n", op);
  std::abort();
}

MutMatrix matrix(const Array& x) {
  require(x && x.element == Element::real, "a real array");
  return {static_cast<float*>(address(x)) + x.offset, x.rows, x.cols, x.stride};
}

Bf16Matrix bf16_matrix(const Array& x) {
  require(x && x.element == Element::bf16, "a bf16 array");
  return {bf16_row(x, 0), x.rows, x.cols, x.stride};
}

Bf16Operand operand(const Array& x) {
  if (x.element == Element::bf16) return bf16_matrix(x);
  return matrix(x);
}

const float* widened(const Array& x, std::int64_t i, float* buffer) {
  if (x.element == Element::real) return matrix(x).row(i).data();
  kernels().bf16_to_f32(buffer, bf16_row(x, i), static_cast<std::size_t>(x.cols));
  return buffer;
}

float* row_to_write(const Array& x, std::int64_t i, float* buffer) {
  return x.element == Element::real ? matrix(x).row(i).data() : buffer;
}

void written(const Array& x, std::int64_t i, const float* buffer) {
  if (x.element == Element::bf16) kernels().f32_to_bf16(bf16_row(x, i), buffer, static_cast<std::size_t>(x.cols));
}

}  // namespace fettle::kit::cpu
