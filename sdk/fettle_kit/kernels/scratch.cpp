// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/kernels/scratch.h"

#include <array>
#include <memory>
#include <new>

namespace fettle::kit {
namespace {

struct Aligned {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

struct Buffer {
  std::unique_ptr<float[], Aligned> data;
  std::size_t size = 0;
};

}  // namespace

float* scratch(Scratch purpose, std::size_t n) {
  thread_local std::array<Buffer, static_cast<std::size_t>(Scratch::count)> buffers;
  Buffer& buffer = buffers[static_cast<std::size_t>(purpose)];
  if (buffer.size < n) {
    buffer.data.reset();
    buffer.size = 0;
    buffer.data.reset(static_cast<float*>(::operator new[](n * sizeof(float), std::align_val_t{64})));
    buffer.size = n;
  }
  return buffer.data.get();
}

}  // namespace fettle::kit
