// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace fettle::kit {

/// How a tensor is stored. Plain types have one element a block; the ggml block types share one scale (or several)
/// among block_elems elements.
enum class DType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  tq1_0,
  tq2_0,
  mxfp4,
  nvfp4,
  iq2_xxs,
  iq2_xs,
  iq2_s,
  iq3_xxs,
  iq3_s,
  iq1_s,
  iq1_m,
  q1_0,
  q2_0,
};

/// One row of the dtype table. Most code never sees a storage type: it asks the table to turn a row into f32.
struct DTypeInfo {
  DType dtype;
  std::string_view name;         ///< as users write it: "bf16", "q4_k"
  std::string_view safetensors;  ///< its name in a safetensors header, or "" if it cannot be stored there
  int gguf;                      ///< its ggml type id, or -1
  int block_elems;               ///< elements that share a block; 1 for plain types
  int block_bytes;               ///< bytes of a block
  /// n elements (a multiple of block_elems) to f32; null: cannot be read as numbers.
  void (*to_f32)(const std::byte* src, float* dst, std::size_t n);
  /// n elements (a multiple of block_elems) from f32, round to nearest even for plain types, ggml's reference
  /// procedure (docs/reference/gguf.md) for block types; null: read-only type. NaN stays NaN (0 in integer types).
  /// Beyond the range: f16 and f8_e5m2 give infinity, f8_e4m3 (which has none) gives NaN, so clamp first; integers give
  /// their limit.
  void (*from_f32)(const float* src, std::byte* dst, std::size_t n);
};

const DTypeInfo& info(DType dtype);
std::span<const DTypeInfo> all_dtypes();
/// Null if there is no such type.
const DTypeInfo* find_dtype_by_safetensors(std::string_view name);
const DTypeInfo* find_dtype_by_gguf(int id);
const DTypeInfo* find_dtype_by_name(std::string_view name);

/// Bytes of n elements; n must be a multiple of the block.
inline std::uint64_t bytes_of(DType dtype, std::uint64_t n) {
  const DTypeInfo& d = info(dtype);
  return n / static_cast<std::uint64_t>(d.block_elems) * static_cast<std::uint64_t>(d.block_bytes);
}
inline bool is_float(DType d) { return d <= DType::f8_e5m2; }

}  // namespace fettle::kit
