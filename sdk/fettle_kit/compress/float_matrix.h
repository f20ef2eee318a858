// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle/result.h"
#include "fettle_kit/compress/float_grids.h"
#include "fettle_kit/compress/quantized_layout.h"
#include "fettle_kit/io/safetensors.h"
#include "fettle_kit/tensor/matrix.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace fettle::kit {

enum class FloatKind { fp8, nvfp4, mxfp4 };

/// Which weights of FP8 share a scale.
enum class Fp8Sharing { tensor, channel, block };
inline constexpr std::int64_t fp8_block = 128;  ///< rows and columns of a block

/// How a matrix becomes small floats.
struct FloatScheme {
  FloatKind kind = FloatKind::fp8;
  Fp8Sharing sharing = Fp8Sharing::channel;  ///< of fp8
  /// Scales of fp8 are rounded to this type before any weight is rounded with them. f32, f16 or bf16.
  DType scale_type = DType::f32;
  BlockScale block_scale = BlockScale::plain;    ///< of nvfp4
  bool reciprocal = false;                       ///< nvfp4: the file holds 1 / divisor, and readers multiply
  PowerScale power_scale = PowerScale::nearest;  ///< of mxfp4

  bool packed() const { return kind != FloatKind::fp8; }  ///< two weights a byte
  /// Weights of a row that share a scale in blocks; of fp8 1.
  std::int64_t block() const { return kind == FloatKind::nvfp4 ? nvfp4_block : packed() ? mxfp4_block : 1; }
  /// Whether all of a matrix share one scale, beside those of blocks.
  bool tensor_scale() const { return kind == FloatKind::nvfp4 || (!packed() && sharing == Fp8Sharing::tensor); }
};

/// A matrix in small floats as files hold it; everything borrowed. [any thread]
struct FloatView {
  FloatKind kind = FloatKind::fp8;
  std::int64_t rows = 0, cols = 0;
  const std::uint8_t* codes = nullptr;  ///< [rows, cols] E4M3, or [rows, cols / 2] with the even column in the low bits
  /// fp8: value = code * scale; a scale for so many rows and columns, the last of them perhaps for fewer.
  const float* scales = nullptr;
  std::int64_t scale_rows = 1, scale_cols = 1;
  /// [rows, cols / block]: nvfp4: E4M3, mxfp4: E8M0
  const std::uint8_t* block_scales = nullptr;
  /// nvfp4: value = code * (block scale / tensor_scale), or times it: the two families of files store reciprocals.
  float tensor_scale = 1;
  bool divides = true;

  /// out [n, cols]: the values of the rows from `first` on.
  void read(std::int64_t first, MutMatrix out) const;
};

/// The same for readers of checkpoints; `scales` become its own, in place of view.scales.
std::unique_ptr<const PackedMatrix> packed_floats(const FloatView& view, std::vector<float> scales = {});

/// A matrix in small floats.
struct FloatMatrix {
  FloatScheme scheme;
  std::int64_t rows = 0, cols = 0;
  std::vector<std::uint8_t> codes, block_scales;
  std::vector<float> scales;  ///< fp8: of the tensor, of each row, or of each block of 128 x 128
  float divisor = 1;          ///< nvfp4
  double error = 0;           ///< sum (w - value)^2, rows in f32
  double power = 0;           ///< sum w^2, rows in f32

  FloatView view() const;
  double relative_error() const { return power > 0 ? error / power : 0; }
};

/// max |w| of a tensor of floats; NaN if it holds a NaN, infinity if it holds one. Runs on the caller's TBB arena.
float largest_magnitude(const TensorView& weights);

/// The scale with which magnitudes up to this reach 448: a number of `type`, positive, 1 for 0.
float fp8_scale(float magnitude, DType type);

/// Rounds every weight to the nearest number of the scheme's grids, whose scales are fitted to the weights.
///   weights    [rows, cols] of f32, f16 or bf16; cols a multiple of the scheme's block
///   magnitude  max |w| of all tensors that share the tensor's scale; only looked at if the scheme has one
/// invalid_argument, naming the tensor, for a NaN or infinity. Runs on the caller's TBB arena; the same bytes for any
/// number of threads. A row at a time is in memory as f32.
Result<FloatMatrix> round_to_floats(const TensorView& weights, const FloatScheme& scheme, float magnitude);

/// Rounds single weights by the scales that a matrix has. [any thread]
class FloatRounding {
 public:
  explicit FloatRounding(const FloatMatrix& matrix);
  /// The value nearest to w at that place.
  float nearest(std::int64_t row, std::int64_t column, float w) const;

 private:
  FloatKind kind_;
  std::int64_t scale_rows_, scale_cols_, across_;
  std::vector<float> scales_;  ///< one for so many rows and columns
};

/// Other codes, by the scales that the matrix has: those of w [rows, cols]. `error` and `power` stay.
void encode_again(FloatMatrix& matrix, ConstMatrix w);

}  // namespace fettle::kit
