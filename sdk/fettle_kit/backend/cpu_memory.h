// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/backend/backend.h"
#include "fettle_kit/kernels/gemm_bf16.h"

#include <cstddef>

namespace fettle::kit::cpu {

/// Host memory of an array of the cpu backend, 64-byte aligned.
class HostStorage final : public Storage {
 public:
  explicit HostStorage(std::size_t bytes);
  ~HostStorage() override;
  HostStorage(const HostStorage&) = delete;
  HostStorage& operator=(const HostStorage&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
};

/// Ends the program: `op` was called with arrays that do not fit together.
void require(bool fits, const char* op);

/// A real array as a matrix.
MutMatrix matrix(const Array& x);
Bf16Matrix bf16_matrix(const Array& x);
Bf16Operand operand(const Array& x);  ///< of a bf16 product, real or bf16

/// Row i of an array as f32: itself, or widened into `buffer` of cols floats.
const float* widened(const Array& x, std::int64_t i, float* buffer);
/// Where row i of an array is to be computed: in place, or in `buffer` if it is bf16; then narrow it.
float* row_to_write(const Array& x, std::int64_t i, float* buffer);
void written(const Array& x, std::int64_t i, const float* buffer);

}  // namespace fettle::kit::cpu
