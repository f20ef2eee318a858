// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fettle_kit/compress/float_matrix.h"
#include "fettle_kit/compress/grid.h"
#include "fettle_kit/kernels/gemm.h"
#include "fettle_kit/tensor/matrix.h"

#include <memory>

namespace fettle::kit {

/// What quantizing a matrix and reading it again gives, for training that sees what will be exported
/// (quantization-aware training). It runs the very code of the exporting technique, on weights rounded to the type that
/// the checkpoint will hold, so the codes are those of the file.
///
///   w         [rows, cols], as the checkpoint will store it; finite
///   used      [rows, cols] f32
///   gradient  [rows, cols] f32
///
/// Immutable. Runs on the caller's TBB arena; the same bits for any number of threads.
class FakeQuantizer {
 public:
  virtual ~FakeQuantizer() = default;
  /// `magnitude`: max |w| of all matrices that share one scale with this; only schemes with a scale a tensor look.
  virtual void quantize(MutMatrix used, const StoredMatrix& w, float magnitude) const = 0;
  /// The straight-through estimator (Bengio et al. 2013, arXiv:1308.3432) with a clipped gradient: 0 where the end of
  /// the grid, not rounding, decided the code; elsewhere what `used` got counts as w's own.
  virtual void clip_gradient(MutMatrix gradient, const StoredMatrix& w, float magnitude) const = 0;
};

/// A ggml block type, as quantize.gguf writes it without an importance matrix; cols a multiple of its block. Q4_0 and
/// Q5_0 clip: their largest weight lies at the end of the grid that has one step more, and the other end half a step
/// beyond the last code decides. The others fit their range to the weights, so nothing counts as clipped. f16 and bf16
/// are types too: they round.
std::unique_ptr<FakeQuantizer> fake_gguf(DType type);

/// The grids of quantize.rtn and quantize.gptq, fitted to the weights at every step.
std::unique_ptr<FakeQuantizer> fake_grid(const GridScheme& scheme);

/// The small floats of quantize.fp8, quantize.nvfp4 and quantize.mxfp4; cols a multiple of the scheme's block. Clipped
/// is what lies more than half a step beyond the largest number: nothing where scales are fitted to the largest weight.
std::unique_ptr<FakeQuantizer> fake_floats(const FloatScheme& scheme);

}  // namespace fettle::kit
