// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

// Included by the files of one instruction set, so nothing here may contain code: the linker could keep the AVX-512
// copy of an inline function for the whole program.

namespace fettle::kit {

/// Depth of one packed block of a matrix product, a multiple of every dtype's block. Half as deep, the sums in y are
/// loaded and stored twice as often, which costs 5 % where y is large.
inline constexpr std::ptrdiff_t kBlockDepth = 512;
/// Floats between two rows of a packed block of X: a few more than its depth, so that the rows fall into different sets
/// of the cache.
inline constexpr std::ptrdiff_t kPackedStride = kBlockDepth + 16;
/// Rows of x from which on packing w pays off against transposing it in registers.
inline constexpr int kThinRows = 8;

/// An operand of a bf16 product, from element (0, 0) of what is to be packed. Element (i, k), k along the sum, is
/// data[i * stride + k], or data[k * stride + i] if by_depth.
struct Bf16Source {
  const void* data;
  std::ptrdiff_t stride;
  bool stored;  ///< bf16, else f32 to be rounded
  bool by_depth;
};

/// Pieces of the bf16 products of gemm_bf16.h, which defines the arithmetic. How panels look inside is the table's own
/// affair; all of a panel is `depth` rounded up to kBf16Slice, padded with zeros.
inline constexpr std::ptrdiff_t kBf16Slice = 32;
struct Bf16Kernels {
  std::ptrdiff_t tile_rows, tile_cols;  ///< rows of an x panel, columns of a w panel
  std::ptrdiff_t element_bytes;         ///< of a packed element
  /// Depth of a packed block, and bytes of packed x that a task multiplies with 128 columns of w: both blocks together
  /// fit into the second-level cache of the machines that choose this table.
  std::ptrdiff_t block_depth, task_x_bytes;
  /// Packs `rows` rows of x as consecutive panels of tile_rows; `to` is 64-byte aligned.
  void (*pack_x)(void* to, Bf16Source from, std::ptrdiff_t rows, std::ptrdiff_t depth);
  /// Packs `cols` rows of w, columns of y, as consecutive panels of tile_cols.
  void (*pack_w)(void* to, Bf16Source from, std::ptrdiff_t cols, std::ptrdiff_t depth);
  /// y[i,j] = sum (+ y[i,j] if accumulate), i < rows, j < cols, of the panels of x against those of w.
  void (*multiply)(float* y, std::ptrdiff_t y_stride, const void* x, const void* w, std::ptrdiff_t rows,
                   std::ptrdiff_t cols, std::ptrdiff_t depth, bool accumulate);
};

/// g' = scale g;  m' = beta1 m + rest1 g';  v' = beta2 v + rest2 g'^2;  w' = keep w - rate m' / (sqrt(root v') +
/// epsilon) (Loshchilov and Hutter 2019, algorithm 2), bias corrections included: rest = 1 - beta, keep = 1 - rate
/// decay, rate divided by 1 - beta1^t, root = 1 / (1 - beta2^t).
struct AdamwFactors {
  float scale, beta1, rest1, beta2, rest2, keep, rate, root, epsilon;
};

/// The vector instructions that a table allows; what code with kernels of its own chooses by.
enum class Vectors { none, avx2, avx512 };

/// The hot loops for one instruction set. All tables give the same bits for the same input (a NaN may have another
/// payload): `scalar` says what each function means, and the others are tested against it.
///
/// Rows: n floats, any n, any alignment. An output may be one of the inputs, but must not overlap them otherwise.
/// Sums over a row run in 16 lanes, lane j taking elements j, j + 16, ... of the row padded with zeros, and the lanes
/// are added in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. Any thread may call any function.
struct KernelTable {
  const char* name;  ///< "scalar", "avx2", "avx512", "avx512bf16", "amx"
  Vectors vectors;   ///< of all but bf16 products

  float (*dot)(const float* a, const float* b, std::size_t n);     ///< sum of fma(a, b, sum)
  float (*sum_squares)(const float* x, std::size_t n);             ///< dot(x, x)
  float (*max)(const float* x, std::size_t n);                     ///< -inf for none; NaN is skipped
  std::size_t (*arg_max)(const float* x, std::size_t n);           ///< first of the largest; NaN never wins; 0 for none
  void (*axpy)(float* y, float a, const float* x, std::size_t n);  ///< y = fma(a, x, y)
  void (*scale)(float* y, float a, const float* x, std::size_t n);  ///< y = a * x
  void (*add)(float* y, const float* a, const float* b, std::size_t n);
  void (*mul)(float* y, const float* a, const float* b, std::size_t n);
  /// y = (a * x) * w: the second half of a norm.
  void (*scale_mul)(float* y, float a, const float* x, const float* w, std::size_t n);
  /// y = y + (a * x) * w: what a row adds to the gradient of a norm's weight.
  void (*scale_mul_add)(float* y, float a, const float* x, const float* w, std::size_t n);
  /// One step of AdamW over w and its moments m and v, from the gradient g.
  void (*adamw)(float* w, float* m, float* v, const float* g, const AdamwFactors& factors, std::size_t n);

  // Elementary functions: our own polynomials. Largest errors, in units of the last place of the exact result, as
  // tests/kernels/elementary_test.cpp measures them against f64 over all finite floats (every 211th of them).

  void (*exp)(float* y, const float* x, std::size_t n);      ///< 1 ulp, of subnormals too
  void (*tanh)(float* y, const float* x, std::size_t n);     ///< 1.5 ulp
  void (*sigmoid)(float* y, const float* x, std::size_t n);  ///< 2.5 ulp; 1 / (1 + exp(-x))
  void (*silu)(float* y, const float* x, std::size_t n);     ///< 3.5 ulp from -80 up; x * sigmoid(x)
  /// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): 3.5 ulp from -1 up; 100 ulp in [-8, -1], where the result falls to
  /// 1e-20 and the exponent magnifies roundings.
  void (*gelu_tanh)(float* y, const float* x, std::size_t n);
  /// y = silu(gate) * up and y = gelu_tanh(gate) * up.
  void (*silu_mul)(float* y, const float* gate, const float* up, std::size_t n);
  void (*gelu_mul)(float* y, const float* gate, const float* up, std::size_t n);
  /// Of y = f(gate) * up: dgate = dy * up * f'(gate), dup = dy * f(gate). x sigmoid(u(x)) has the slope
  /// s + x s (1 - s) u'(x), s = sigmoid(u(x)).
  void (*silu_mul_gradient)(float* dgate, float* dup, const float* dy, const float* gate, const float* up,
                            std::size_t n);
  void (*gelu_mul_gradient)(float* dgate, float* dup, const float* dy, const float* gate, const float* up,
                            std::size_t n);
  /// y = exp(x - shift); returns the sum of y.
  float (*exp_sum)(float* y, const float* x, float shift, std::size_t n);

  /// Turns the pairs (x[i], x[i + pairs]) by the angles given: a' = a cos - b sin, b' = b cos + a sin, in place.
  void (*rotate)(float* x, const float* cos, const float* sin, std::size_t pairs);

  // Conversions, same bits as the dtype table.
  void (*bf16_to_f32)(float* y, const std::uint16_t* x, std::size_t n);
  void (*f32_to_bf16)(std::uint16_t* y, const float* x, std::size_t n);
  void (*f16_to_f32)(float* y, const std::uint16_t* x, std::size_t n);
  void (*f32_to_f16)(std::uint16_t* y, const float* x, std::size_t n);

  // Pieces of matrix products, for gemm.cpp and attention.cpp. Each output element is one chain of fused multiply-adds
  // in index order. Strides in elements.

  std::ptrdiff_t tile_rows, tile_cols;  ///< the largest tile
  /// y[i,j] = sum_k a[i,k] * b[k,j] (+ y[i,j] if accumulate) for rows <= tile_rows, cols <= tile_cols; the rows of `a`
  /// are kPackedStride apart, and depth <= kPackedStride.
  void (*tile)(float* y, std::ptrdiff_t y_stride, const float* a, const float* b, std::ptrdiff_t b_stride,
               std::ptrdiff_t depth, std::ptrdiff_t rows, std::ptrdiff_t cols, bool accumulate);
  /// y[j,i] = x[i,j]
  void (*transpose)(float* y, std::ptrdiff_t y_stride, const float* x, std::ptrdiff_t x_stride, std::ptrdiff_t rows,
                    std::ptrdiff_t cols);
  /// y[i,j] = sum_k x[k,i] * w[j,k] (+ y[i,j] if accumulate), i < x_rows <= kThinRows, j < w_rows: reads w once. x is
  /// dense, [depth, x_rows]. Meanwhile about as many bytes from `ahead` on come into the cache, unless it is null: the
  /// rows that the caller goes on with. Any address will do.
  void (*thin_f32)(float* y, std::ptrdiff_t y_stride, const float* x, std::ptrdiff_t x_rows, const float* w,
                   std::ptrdiff_t w_stride, std::ptrdiff_t w_rows, std::ptrdiff_t depth, bool accumulate,
                   const void* ahead);
  void (*thin_bf16)(float* y, std::ptrdiff_t y_stride, const float* x, std::ptrdiff_t x_rows, const std::uint16_t* w,
                    std::ptrdiff_t w_stride, std::ptrdiff_t w_rows, std::ptrdiff_t depth, bool accumulate,
                    const void* ahead);
  void (*thin_f16)(float* y, std::ptrdiff_t y_stride, const float* x, std::ptrdiff_t x_rows, const std::uint16_t* w,
                   std::ptrdiff_t w_stride, std::ptrdiff_t w_rows, std::ptrdiff_t depth, bool accumulate,
                   const void* ahead);
  /// Blocks of 32: an f16 scale and 32 signed bytes (formats of ggml). w_stride in bytes; depth is a multiple of 32.
  void (*thin_q8_0)(float* y, std::ptrdiff_t y_stride, const float* x, std::ptrdiff_t x_rows, const std::uint8_t* w,
                    std::ptrdiff_t w_stride, std::ptrdiff_t w_rows, std::ptrdiff_t depth, bool accumulate,
                    const void* ahead);

  const Bf16Kernels* bf16;
};

extern const Bf16Kernels scalar_bf16, avx2_bf16, avx512_bf16;
extern const Bf16Kernels dot_bf16;  ///< needs AVX-512 with BF16
extern const Bf16Kernels amx_bf16;  ///< packing needs AVX-512 with BF16

extern const KernelTable scalar_kernels;
extern const KernelTable avx2_kernels;    ///< needs AVX2, FMA, F16C
extern const KernelTable avx512_kernels;  ///< needs AVX-512 F, BW, DQ, VL

}  // namespace fettle::kit
