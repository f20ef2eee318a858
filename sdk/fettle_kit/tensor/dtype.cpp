// SPDX-License-Identifier: Apache-2.0
#include "fettle_kit/tensor/dtype.h"

#include "fettle_kit/tensor/block_codec.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace fettle::kit {
namespace {

template <class T>
T load(const std::byte* src, std::size_t i) {
  T value;
  std::memcpy(&value, src + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void store(std::byte* dst, std::size_t i, T value) {
  std::memcpy(dst + i * sizeof(T), &value, sizeof(T));
}

/// A binary float of 1 + E + M bits with subnormals. With `infinity` the top exponent is infinity and NaN (IEEE 754);
/// without it only the all-ones code is NaN and the rest of the top exponent is finite ("fn" types).
template <class Bits, int E, int M, bool infinity>
struct SmallFloat {
  static constexpr int bias = (1 << (E - 1)) - 1;
  static constexpr std::uint32_t exponent_mask = ((1u << E) - 1) << M;
  static constexpr std::uint32_t all_ones = (1u << (E + M)) - 1;
  static constexpr std::uint32_t overflow = infinity ? exponent_mask : all_ones;  ///< first code beyond the finite ones

  static float decode(Bits bits) {
    const std::uint32_t code = bits & all_ones;
    const std::uint32_t sign = static_cast<std::uint32_t>(bits >> (E + M)) << 31;
    const std::uint32_t mantissa = (code & ((1u << M) - 1)) << (23 - M);
    if (code >= overflow) return std::bit_cast<float>(sign | 0x7f800000u | (infinity ? mantissa : 0x00400000u));
    if (code < (1u << M)) {  // zero and subnormals: code * 2^(1 - bias - M), exact
      constexpr float unit = std::bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - bias - M) << 23);
      return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(static_cast<float>(code) * unit));
    }
    return std::bit_cast<float>(sign | (((code >> M) + 127 - bias) << 23) | mantissa);
  }

  static Bits encode(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = bits >> 31 << (E + M);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {  // a quiet NaN; 16-bit types keep the top of the payload, as the hardware does
      const std::uint32_t payload =
          M > 3 ? exponent_mask | (1u << (M - 1)) | ((magnitude & 0x7fffffu) >> (23 - M)) : all_ones;
      return static_cast<Bits>(sign | payload);
    }
    constexpr std::uint32_t smallest_normal = static_cast<std::uint32_t>(127 - bias + 1) << 23;
    std::uint32_t scaled = 0, shift = 0;
    if (magnitude >= smallest_normal) {
      scaled = magnitude - (static_cast<std::uint32_t>(127 - bias) << 23);
      shift = 23 - M;
    } else {
      scaled = (magnitude & 0x7fffffu) | 0x800000u;
      shift = static_cast<std::uint32_t>(127 - bias + 1 + 23 - M) - (magnitude >> 23);
      if (shift > 25) return static_cast<Bits>(sign);  // under half of the smallest subnormal; f32 subnormals too
    }
    const std::uint32_t rounded = (scaled + (1u << (shift - 1)) - 1 + ((scaled >> shift) & 1)) >> shift;
    return static_cast<Bits>(sign | (rounded < overflow ? rounded : overflow));
  }
};

using F16 = SmallFloat<std::uint16_t, 5, 10, true>;
using F8E4M3 = SmallFloat<std::uint8_t, 4, 3, false>;
using F8E5M2 = SmallFloat<std::uint8_t, 5, 2, true>;

template <class Float, class Bits>
void small_to_f32(const std::byte* src, float* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) dst[i] = Float::decode(load<Bits>(src, i));
}

template <class Float>
void small_from_f32(const float* src, std::byte* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) store(dst, i, Float::encode(src[i]));
}

void bf16_to_f32(const std::byte* src, float* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    dst[i] = std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(src, i)) << 16);
}

void bf16_from_f32(const float* src, std::byte* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(src[i]);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    store(dst, i, static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40u : rounded));
  }
}

void e8m0_to_f32(const std::byte* src, float* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const auto code = std::to_integer<int>(src[i]);
    dst[i] = code == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, code - 127);
  }
}

template <class T>
void plain_to_f32(const std::byte* src, float* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) dst[i] = static_cast<float>(load<T>(src, i));
}

/// Integers: to nearest, ties to even; beyond the range to its end; NaN to 0.
template <class T>
T number_from_f32(float value) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(value);
  } else {
    if (std::isnan(value)) return 0;
    const double rounded = std::nearbyint(static_cast<double>(value));
    constexpr double low = static_cast<double>(std::numeric_limits<T>::min());
    constexpr double high = static_cast<double>(std::numeric_limits<T>::max());  // 2^63 and 2^64 for the widest types
    if (rounded <= low) return std::numeric_limits<T>::min();
    if (rounded >= high) return std::numeric_limits<T>::max();
    return static_cast<T>(rounded);
  }
}

template <class T>
void plain_from_f32(const float* src, std::byte* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) store(dst, i, number_from_f32<T>(src[i]));
}

void bool_to_f32(const std::byte* src, float* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) dst[i] = src[i] == std::byte{0} ? 0.0f : 1.0f;
}

void bool_from_f32(const float* src, std::byte* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) dst[i] = src[i] == 0.0f ? std::byte{0} : std::byte{1};
}

template <DType type>
void block_to_f32(const std::byte* src, float* dst, std::size_t n) {
  decode_blocks(type, src, dst, n);
}
template <DType type>
void block_from_f32(const float* src, std::byte* dst, std::size_t n) {
  encode_blocks_reference(type, src, dst, 1, static_cast<std::int64_t>(n), nullptr);
}

using enum DType;

// clang-format off
constexpr DTypeInfo kTable[] = {  // in the order of the enum
    {f64,     "f64",     "F64",     28, 1, 8, plain_to_f32<double>, plain_from_f32<double>},
    {f32,     "f32",     "F32",      0, 1, 4, plain_to_f32<float>, plain_from_f32<float>},
    {f16,     "f16",     "F16",      1, 1, 2, small_to_f32<F16, std::uint16_t>, small_from_f32<F16>},
    {bf16,    "bf16",    "BF16",    30, 1, 2, bf16_to_f32, bf16_from_f32},
    {f8_e4m3, "f8_e4m3", "F8_E4M3", -1, 1, 1, small_to_f32<F8E4M3, std::uint8_t>, small_from_f32<F8E4M3>},
    {f8_e5m2, "f8_e5m2", "F8_E5M2", -1, 1, 1, small_to_f32<F8E5M2, std::uint8_t>, small_from_f32<F8E5M2>},
    {f8_e8m0, "f8_e8m0", "F8_E8M0", -1, 1, 1, e8m0_to_f32, nullptr},
    {i64,     "i64",     "I64",     27, 1, 8, plain_to_f32<std::int64_t>, plain_from_f32<std::int64_t>},
    {i32,     "i32",     "I32",     26, 1, 4, plain_to_f32<std::int32_t>, plain_from_f32<std::int32_t>},
    {i16,     "i16",     "I16",     25, 1, 2, plain_to_f32<std::int16_t>, plain_from_f32<std::int16_t>},
    {i8,      "i8",      "I8",      24, 1, 1, plain_to_f32<std::int8_t>, plain_from_f32<std::int8_t>},
    {u64,     "u64",     "U64",     -1, 1, 8, plain_to_f32<std::uint64_t>, plain_from_f32<std::uint64_t>},
    {u32,     "u32",     "U32",     -1, 1, 4, plain_to_f32<std::uint32_t>, plain_from_f32<std::uint32_t>},
    {u16,     "u16",     "U16",     -1, 1, 2, plain_to_f32<std::uint16_t>, plain_from_f32<std::uint16_t>},
    {u8,      "u8",      "U8",      -1, 1, 1, plain_to_f32<std::uint8_t>, plain_from_f32<std::uint8_t>},
    {boolean, "bool",    "BOOL",    -1, 1, 1, bool_to_f32, bool_from_f32},
    {q4_0,    "q4_0",    "",         2,  32,  18, block_to_f32<q4_0>, block_from_f32<q4_0>},
    {q4_1,    "q4_1",    "",         3,  32,  20, block_to_f32<q4_1>, block_from_f32<q4_1>},
    {q5_0,    "q5_0",    "",         6,  32,  22, block_to_f32<q5_0>, block_from_f32<q5_0>},
    {q5_1,    "q5_1",    "",         7,  32,  24, block_to_f32<q5_1>, block_from_f32<q5_1>},
    {q8_0,    "q8_0",    "",         8,  32,  34, block_to_f32<q8_0>, block_from_f32<q8_0>},
    {q2_k,    "q2_k",    "",        10, 256,  84, block_to_f32<q2_k>, block_from_f32<q2_k>},
    {q3_k,    "q3_k",    "",        11, 256, 110, block_to_f32<q3_k>, block_from_f32<q3_k>},
    {q4_k,    "q4_k",    "",        12, 256, 144, block_to_f32<q4_k>, block_from_f32<q4_k>},
    {q5_k,    "q5_k",    "",        13, 256, 176, block_to_f32<q5_k>, block_from_f32<q5_k>},
    {q6_k,    "q6_k",    "",        14, 256, 210, block_to_f32<q6_k>, block_from_f32<q6_k>},
    {iq4_nl,  "iq4_nl",  "",        20,  32,  18, block_to_f32<iq4_nl>, block_from_f32<iq4_nl>},
    {iq4_xs,  "iq4_xs",  "",        23, 256, 136, block_to_f32<iq4_xs>, block_from_f32<iq4_xs>},
    {tq1_0,   "tq1_0",   "",        34, 256,  54, block_to_f32<tq1_0>, block_from_f32<tq1_0>},
    {tq2_0,   "tq2_0",   "",        35, 256,  66, block_to_f32<tq2_0>, block_from_f32<tq2_0>},
    {mxfp4,   "mxfp4",   "",        39,  32,  17, block_to_f32<mxfp4>, block_from_f32<mxfp4>},
    {nvfp4,   "nvfp4",   "",        40,  64,  36, block_to_f32<nvfp4>, block_from_f32<nvfp4>},
    {iq2_xxs, "iq2_xxs", "",        16, 256,  66, block_to_f32<iq2_xxs>, nullptr},
    {iq2_xs,  "iq2_xs",  "",        17, 256,  74, block_to_f32<iq2_xs>, nullptr},
    {iq2_s,   "iq2_s",   "",        22, 256,  82, block_to_f32<iq2_s>, block_from_f32<iq2_s>},
    {iq3_xxs, "iq3_xxs", "",        18, 256,  98, block_to_f32<iq3_xxs>, block_from_f32<iq3_xxs>},
    {iq3_s,   "iq3_s",   "",        21, 256, 110, block_to_f32<iq3_s>, block_from_f32<iq3_s>},
    {iq1_s,   "iq1_s",   "",        19, 256,  50, block_to_f32<iq1_s>, nullptr},
    {iq1_m,   "iq1_m",   "",        29, 256,  56, block_to_f32<iq1_m>, block_from_f32<iq1_m>},
    {q1_0,    "q1_0",    "",        41, 128,  18, block_to_f32<q1_0>, block_from_f32<q1_0>},
    {q2_0,    "q2_0",    "",        42,  64,  18, block_to_f32<q2_0>, block_from_f32<q2_0>},
};
// clang-format on

consteval bool in_enum_order() {
  for (std::size_t i = 0; i < std::size(kTable); ++i)
    if (static_cast<std::size_t>(kTable[i].dtype) != i) return false;
  return true;
}
static_assert(in_enum_order() && std::size(kTable) == static_cast<std::size_t>(q2_0) + 1);

template <class Matches>
const DTypeInfo* find_row(Matches matches) {
  for (const DTypeInfo& row : kTable)
    if (matches(row)) return &row;
  return nullptr;
}

}  // namespace

const DTypeInfo& info(DType dtype) { return kTable[static_cast<std::size_t>(dtype)]; }

std::span<const DTypeInfo> all_dtypes() { return kTable; }

const DTypeInfo* find_dtype_by_safetensors(std::string_view name) {
  return find_row([&](const DTypeInfo& row) { return !name.empty() && row.safetensors == name; });
}

const DTypeInfo* find_dtype_by_gguf(int id) {
  return find_row([&](const DTypeInfo& row) { return id >= 0 && row.gguf == id; });
}

const DTypeInfo* find_dtype_by_name(std::string_view name) {
  return find_row([&](const DTypeInfo& row) { return row.name == name; });
}

}  // namespace fettle::kit
